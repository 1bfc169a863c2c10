"""GRPO through a served engine: the same rollouts as the embedded one, faults noticed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import posttrain as pt
from posttrain.errors import ConfigError, WeightSyncError
from posttrain.methods.engine import RolloutEngine
from posttrain.models.spec import model_spec

FAKE = Path(__file__).parent.parent / "fake_vllm.py"
SOURCE = FAKE.parent.parent / "src"


def served(tmp_path: Path, num_servers: int = 1, **changes: Any) -> dict[str, Any]:
    """The key `engine` of a recipe."""
    faults = str(tmp_path / "faults-{number}.json")
    environment = {"PYTHONPATH": str(SOURCE), "FAKE_FAULTS": faults, "HF_HUB_OFFLINE": "1"}
    launch = {
        "python": sys.executable,
        "module": str(FAKE),
        "environment": {**environment, "OMP_NUM_THREADS": "1"},
        "num_servers": num_servers,
        "start_seconds": 300.0,
    }
    return {"name": "served", "launch": launch, **changes}


def recipe(**changes: Any) -> dict[str, Any]:
    return {
        "method": "grpo",
        "task": {"name": "sorting", "num_numbers": 2, "max_number": 9},
        "rewards": ["length"],
        "sampling": {"max_tokens": 10},
        "num_generations": 3,
        "batch_size": 2,
        "learning_rate": 1e-3,
        "max_steps": 3,
        "seed": 1,
        "save_final": False,
        **changes,
    }


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def texts(folder: Path) -> list[list[str]]:
    return [[c["text"] for c in row["completions"]] for row in lines(folder, "rollouts.jsonl")]


def test_a_recipe_samples_the_same_by_servers_and_goes_on_when_one_is_killed(
    run_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """Two servers in processes of their own. One dies at its fifth request, one answers 500
    once. The rollouts are those of the embedded engine.
    """
    plain = run_recipe(**recipe(output=str(tmp_path / "plain")))
    (tmp_path / "faults-0.json").write_text('{"die": 12}')
    (tmp_path / "faults-1.json").write_text('{"status": 1}')
    engine = served(tmp_path, num_servers=2)
    folder = run_recipe(**recipe(engine=engine, output=str(tmp_path / "served")))
    assert texts(folder) == texts(plain)
    ours, theirs = lines(plain, "metrics.jsonl"), lines(folder, "metrics.jsonl")
    for before, after in zip(ours, theirs, strict=True):
        assert after["reward"] == before["reward"]
        assert after["grad_norm"] == pytest.approx(before["grad_norm"], rel=1e-3, abs=1e-6)
        assert after["sync/logprob_gap/mean"] < 1e-4
        assert after["sampling/staleness/max"] == 0.0
        assert "sync/seconds" not in before
    assert theirs[-1]["engine/restarts"] == 1.0
    spans = [
        c["weights_versions"] for row in lines(folder, "rollouts.jsonl") for c in row["completions"]
    ]
    assert {version for row in spans for version, _, _ in row} == {0, 1, 2}
    assert not list((folder / "served").glob("weights-*"))
    written = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert written["engine"]["launch"]["num_servers"] == 2


def test_a_head_that_stays_stale_ends_the_run(
    run_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "faults-0.json").write_text('{"stale": "head"}')
    with pytest.raises(WeightSyncError) as caught:
        run_recipe(**recipe(engine=served(tmp_path), learning_rate=1e-2))
    assert caught.value.gap > caught.value.bound


def test_a_way_of_weights_that_does_not_fit_the_model_is_refused_before_it_is_loaded(
    tiny_folder: Path,
) -> None:
    url = "http://127.0.0.1:9"
    plain = model_spec(str(tiny_folder))
    adapted = model_spec(pt.Model(str(tiny_folder), lora=pt.LoRA(r=2)))
    for spec, sync in ((plain, "adapter"), (adapted, "disk"), (adapted, "nccl")):
        config = pt.Served(url=url, sync=sync)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=r"^engine\.sync: "):
            RolloutEngine(config).check(spec)
    RolloutEngine(pt.Served(url=url)).check(adapted)
    RolloutEngine("embedded").check(adapted)


def test_a_check_shows_the_servers_and_asks_none(tiny_folder: Path) -> None:
    engine = pt.Served(url=["http://127.0.0.1:9", "http://127.0.0.1:10"])
    for plan in (
        pt.grpo("sorting", engine=engine),
        pt.ppo("sorting", engine=engine),
        pt.online_dpo("sorting", engine=engine),
    ):
        facts = dict(plan.prepare(model_spec(str(tiny_folder)), 0, 1).facts)
        assert "http://127.0.0.1:9, http://127.0.0.1:10" in facts["engine"]
    embedded = pt.grpo("sorting").prepare(model_spec(str(tiny_folder)), 0, 1)
    assert "engine" not in dict(embedded.facts)
