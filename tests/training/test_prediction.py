"""The cost of a plan, from its rows and settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import posttrain as pt
from posttrain.config import LoraConfig, ModelConfig
from posttrain.errors import ConfigError

ROWS = [{"prompt": "abc", "completion": "de"}] * 4
PAIRS = [{"prompt": "abc", "chosen": "de", "rejected": "fg"}] * 4


def task() -> Any:
    return pt.make_task([{"prompt": "1+1=", "answer": "2"}])


def test_rows_are_counted(tiny_folder: Path) -> None:
    """The rows' own tokens decide, and twice as many cost twice as much."""
    plan = pt.sft(ROWS, batch_size=2)
    cost = pt.predict_cost(tiny_folder, plan)
    double = pt.predict_cost(tiny_folder, pt.sft(ROWS, batch_size=4))
    assert double.seconds["training"] == pytest.approx(2 * cost.seconds["training"])
    assert "sampling" not in cost.seconds and cost.device.name.startswith("H100")


def test_a_reference_is_a_copy_and_a_pass(tiny_folder: Path) -> None:
    whole = pt.predict_cost(tiny_folder, pt.dpo(PAIRS))
    alone = pt.predict_cost(tiny_folder, pt.dpo(PAIRS, losses=["simpo"]))
    assert whole.memory["weights"] == 2 * alone.memory["weights"]
    assert whole.seconds["training"] == pytest.approx(4 / 3 * alone.seconds["training"])


def test_adapters_train_a_share_and_need_no_copy(tiny_folder: Path) -> None:
    lora = ModelConfig(str(tiny_folder), lora=LoraConfig(r=2))
    cost, whole = (pt.predict_cost(m, pt.dpo(PAIRS)) for m in (lora, tiny_folder))
    assert cost.memory["optimiser"] < whole.memory["optimiser"]
    assert cost.memory["weights"] == whole.memory["weights"] / 2


def test_samples_follow_from_the_settings(tiny_folder: Path) -> None:
    def cost(**options: Any) -> Any:
        plan = pt.grpo(task(), rewards=["length"], batch_size=4, num_generations=2, **options)
        return pt.predict_cost(tiny_folder, plan, prompt_tokens=10, completion_tokens=20, devices=2)

    once, twice = cost(), cost(num_iterations=2)
    assert once.seconds["sampling"] == twice.seconds["sampling"] > 0
    assert twice.seconds["training"] > 2 * once.seconds["training"]
    assert once.memory["keys and values"] > 0 and once.traffic["weights for sampling"] > 0


def test_settings_of_the_optimiser_count(tiny_folder: Path) -> None:
    plain, small, more = (
        pt.predict_cost(tiny_folder, pt.sft(ROWS), **options).memory["optimiser"]
        for options in ({}, {"optimizer": "adamw_8bit"}, {"ema_decay": 0.9})
    )
    assert small < plain < more


def test_another_shape_and_device(tiny_folder: Path) -> None:
    plan = pt.sft(ROWS)
    cost = pt.predict_cost(tiny_folder, plan, shape="qwen3-8b", devices=8, device_kind="a100")
    assert cost.memory["weights"] == pytest.approx(2 * 8.2e9 / 8, rel=0.01)
    with pytest.raises(ConfigError, match="device_kind 'h1'"):
        pt.predict_cost(tiny_folder, plan, device_kind="h1")


def test_a_loop_is_refused(tiny_folder: Path) -> None:
    with pytest.raises(ConfigError, match="loop"):
        pt.predict_cost(tiny_folder, pt.self_training(task()))  # type: ignore[arg-type]
