"""Settings of evaluate_reward that belong to a half which is left out are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from posttrain.errors import ConfigError
from posttrain.recipe import parse_recipe
from posttrain.runs import run_of

PAIRS = [{"prompt": f"{i}:", "chosen": "a" * (i + 1), "rejected": "b"} for i in range(4)]
TASK: dict[str, Any] = {
    "name": "arithmetic",
    "num_steps": 1,
    "max_operand": 9,
    "max_value": 20,
    "num_examples": 4,
}


def test_settings_of_a_half_that_is_left_out_are_refused(
    run_recipe: Callable[..., Path], tmp_path: Path, tiny_folder: Path
) -> None:
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in PAIRS))
    folder = run_recipe(
        method="reward_model", data="pairs.jsonl", max_steps=1, output=str(tmp_path / "scores")
    )
    model = {"path": str(folder / "model"), "dtype": "float32"}

    def refused(message: str, **raw: Any) -> None:
        raw = {"method": "evaluate_reward", "model": model, "output": str(tmp_path / "no"), **raw}
        with pytest.raises(ConfigError, match=message):
            run_of(parse_recipe(raw, tmp_path)).prepared()

    rows: dict[str, Any] = {"data": "pairs.jsonl"}
    best = {"task": TASK, "policy": str(tiny_folder), "sampling": {"max_tokens": 4}}
    refused("num_samples: it belongs to best-of-N", **rows, num_samples=4)
    refused("rewards: it belongs to best-of-N", **rows, rewards=["length"])
    refused("sampling: it belongs to best-of-N", **rows, sampling={"max_tokens": 4})
    refused(
        "aggregation: min .* it belongs to best-of-N|scores a whole completion",
        **rows,
        aggregation="min",
    )
    refused("aggregation: min .* this model scores a whole completion", **best, aggregation="min")
    refused("take_as: pairs says how rows of data are read", **best, take_as="pairs")
    refused(
        "take_as: labelled is of rows with a reward, and these are of kind pairs",
        **rows,
        take_as="labelled",
    )
    refused(
        "policy.lora: method 'evaluate_reward' does not train this model",
        **{**best, "policy": {"path": str(tiny_folder), "lora": {"r": 2}}},
    )
