"""A recipe of a sequence: its checks, its table, and its resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.errors import ConfigError
from posttrain.recipe import parse_recipe
from posttrain.runs import run_of

SMALL: dict[str, Any] = {"method": "sft", "batch_size": 4, "max_steps": 1, "learning_rate": 1e-2}
STAGES: list[dict[str, Any]] = [
    {
        "name": "two",
        "task": {"name": "sorting", "num_examples": 8, "num_numbers": 2},
        "evaluation": {
            "task": {"name": "sorting", "num_examples": 4, "num_numbers": 2, "seed": 3},
            "num_examples": 3,
        },
        **SMALL,
    },
    {"name": "three", "task": {"name": "sorting", "num_examples": 8, "num_numbers": 3}, **SMALL},
]


def recipe(model: Path, folder: Path, **more: Any) -> Any:
    return parse_recipe(
        {
            "method": "continual_learning",
            "model": {"path": str(model), "dtype": "float32"},
            "output": str(folder),
            "stages": STAGES,
            "retentions": ["naive", {"name": "l2_to_stages", "weight": 1.0}],
            "num_seeds": 1,
            "num_examples": 2,
            **more,
        }
    )


def test_a_recipe_gives_the_table(tiny_folder: Path, tmp_path: Path) -> None:
    others = {"sums": {"name": "arithmetic", "num_steps": 1, "num_examples": 4}}
    run = run_of(recipe(tiny_folder, tmp_path / "run", others=others))
    facts = dict(run.prepared().facts)
    assert facts["methods"] == "naive; l2_to_stages(weight=1.0)"
    assert facts["two"] == "sft, 1 steps"
    run.execute()
    values = json.loads((tmp_path / "run" / "sequences.json").read_text())
    assert list(values["scores"]) == ["naive", "l2_to_stages(weight=1.0)"]
    assert list(values["others"]["naive"]) == ["sums"]
    own = tmp_path / "run" / "naive" / "seed-0" / "two" / "evaluation-two.json"
    assert json.loads(own.read_text())["num_examples"] == 3
    assert run.finished
    run_of(recipe(tiny_folder, tmp_path / "run", others=others), resume=True).execute()


@pytest.mark.parametrize(
    "changes",
    [
        {"evaluation": {"task": "sorting"}},
        {"stages": [{**STAGES[0], "model": "embedded"}]},
        {"stages": [{**STAGES[0], "seed": 4}]},
        {"stages": [{"name": "a", "method": "evaluate", "evaluation": {"task": "sorting"}}]},
        {"retentions": ["ewcc"]},
        {"num_seeds": 0},
    ],
)
def test_wrong_recipes_are_refused_before_weights(
    tiny_folder: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError):
        run_of(recipe(tiny_folder, tmp_path / "run", **changes)).prepared()
    assert not (tmp_path / "run").exists()
