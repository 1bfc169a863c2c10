"""Stages are resumed as runs are: exactly, or not at all; what is done stays as it is."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from killed import run_in_process
from support import interrupted

from posttrain.errors import CheckpointError
from posttrain.recipe import load_recipe
from posttrain.runs import run_of

Runner = Callable[..., Path]
TASK = {"name": "arithmetic", "num_examples": 8, "num_steps": 1}
SFT: dict[str, Any] = {
    "method": "sft",
    "task": TASK,
    "batch_size": 4,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "constant",
}


def stages(first: int = 2, second: int = 4, **change: Any) -> dict[str, Any]:
    return {
        "method": "pipeline",
        "evaluation": {
            "task": {"name": "arithmetic"},
            "num_examples": 2,
            "sampling": {"max_tokens": 4},
        },
        "stages": [
            {"name": "base", "method": "evaluate"},
            {"name": "one", **SFT, "max_steps": first},
            {"name": "two", **SFT, "max_steps": second, **change},
        ],
    }


def files(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def refused(run_recipe: Runner, match: str, **raw: Any) -> None:
    folder = Path(raw["output"])
    before = files(folder)
    with pytest.raises(CheckpointError, match=match):
        run_recipe(**raw, resume=True)
    assert files(folder) == before


def test_a_stage_that_is_refused_leaves_the_whole_folder(
    run_recipe: Runner, tmp_path: Path
) -> None:
    output = str(tmp_path / "run")
    # Stage one has two steps; the third step is the first of stage two, which is then stopped after
    # its third.
    interrupted(
        run_recipe,
        3,
        message="stopped after step 3 of 4. Go on with: posttrain resume .*run$",
        **stages(),
        output=output,
    )
    refused(run_recipe, r"learning_rate: 0.001 -> 0.1", **stages(learning_rate=0.1), output=output)
    refused(
        run_recipe,
        r"stage 'one' is done, and two went on from it(.|\n)*max_steps: 2 -> 3",
        **stages(first=3),
        output=output,
    )
    folder = run_recipe(**stages(), output=output, resume=True)
    whole = run_recipe(**stages(), output=str(tmp_path / "whole"))
    for name in ("one", "two"):
        assert files(folder / name / "model") == files(whole / name / "model")


def test_the_last_stage_is_extended_and_counts_as_unfinished_meanwhile(
    run_recipe: Runner, tmp_path: Path
) -> None:
    output = str(tmp_path / "run")
    folder = run_recipe(**stages(), output=output)
    before = files(folder / "one")
    seconds = [row["seconds"] for row in json.loads((folder / "summary.json").read_text())["rows"]]
    assert run_of(load_recipe(folder / "recipe.yaml"), resume=True).finished
    interrupted(
        lambda **raw: run_recipe(**raw, resume=True),
        5,
        message="stopped after step 5 of 6",
        **stages(second=6),
        output=output,
    )
    assert not run_of(load_recipe(folder / "recipe.yaml"), resume=True).finished
    run_recipe(**stages(second=6), output=output, resume=True)
    whole = run_recipe(**stages(second=6), output=str(tmp_path / "whole"))
    assert files(folder / "two" / "model") == files(whole / "two" / "model")
    assert (folder / "two" / "model-4").is_dir() and files(folder / "one") == before
    rows = json.loads((folder / "summary.json").read_text())["rows"]
    assert [row["seconds"] for row in rows][:2] == seconds[:2]


def test_a_measured_stage_is_not_measured_in_another_way(
    run_recipe: Runner, tmp_path: Path
) -> None:
    output = str(tmp_path / "run")
    run_recipe(**stages(), output=output)
    other = stages()
    other["evaluation"] = {**other["evaluation"], "num_examples": 3}
    refused(
        run_recipe,
        r"stage 'base' is done(.|\n)*evaluation.num_examples: 2 -> 3",
        **other,
        output=output,
    )


@pytest.mark.slow
def test_a_killed_pipeline_ends_as_an_undisturbed_one(tmp_path: Path, tiny_folder: Path) -> None:
    raw = {**stages(), "model": {"path": str(tiny_folder), "dtype": "float32"}}
    whole, count, folder = tmp_path / "whole", tmp_path / "events", tmp_path / "killed"
    assert (
        run_in_process({**raw, "output": str(whole)}, resume=False, die_at=None, count=count) == 0
    )
    events, draw, kills = int(count.read_text()), random.Random(0), 0
    while True:
        die_at = draw.randrange(1, events // 2) if kills < 4 else None
        code = run_in_process(
            {**raw, "output": str(folder)},
            resume=(folder / "recipe.yaml").exists(),
            die_at=die_at,
            count=count,
        )
        kills += code == -9
        if code == 0:
            break
    assert kills >= 3
    for name in ("one", "two"):
        assert files(folder / name / "model") == files(whole / name / "model")
    rows = [json.loads((f / "summary.json").read_text())["rows"] for f in (whole, folder)]
    untimed = [[{**row, "seconds": 0} for row in some] for some in rows]
    assert untimed[0] == untimed[1]
