"""The recipe of a run that was started in Python, as YAML holds it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import posttrain as pt
from posttrain.config import ModelConfig
from posttrain.models.spec import model_spec
from posttrain.training.record import record_of
from posttrain.training.settings import TrainingSettings

ROWS = [{"prompt": f"{i}+1=", "completion": f" {i + 1}"} for i in range(30)]


def record(model: Any, plan: pt.Plan, **settings: Any) -> dict[str, Any]:
    made = record_of(model_spec(model), plan, TrainingSettings.of(settings), steps=5, seed=3)
    text = yaml.safe_dump(made)
    values: dict[str, Any] = yaml.safe_load(text)
    return values


def test_settings_and_method_are_there_and_what_is_unset_is_not(tiny_folder: Path) -> None:
    values = record(tiny_folder, pt.sft(ROWS, batch_size=4), weight_decay=0.1)
    assert values["method"] == "sft" and values["in_python"] is True
    assert (values["max_steps"], values["seed"]) == (5, 3)
    assert (values["batch_size"], values["weight_decay"]) == (4, 0.1)
    assert values["model"]["path"] == str(tiny_folder)
    assert None not in values.values() and "eval_data" not in values


def test_a_model_in_memory_is_named(tiny_folder: Path) -> None:
    values = record(pt.load(tiny_folder), pt.sft(ROWS))
    named = record(str(tiny_folder), pt.sft(ROWS))["model"]
    assert values["model"] == {**named, "in_memory": True}


def test_objects_are_described(tiny_folder: Path) -> None:
    def short(completions: list[str]) -> list[float]:
        """Shorter is better."""
        return [-float(len(c)) for c in completions]

    task = pt.make_task([{"prompt": str(i), "answer": str(i)} for i in range(6)])
    values = record(tiny_folder, pt.grpo(task, rewards=["length", short]))
    named, function = values["rewards"]
    assert named == "length" or named["name"] == "length"
    assert "short" in str(function)
    assert "6 examples" in values["task"]


@pytest.mark.parametrize("number", [3, 30])
def test_rows_are_counted_and_not_written_down(tiny_folder: Path, number: int) -> None:
    values = record(tiny_folder, pt.sft(ROWS[:number]))
    assert f"{number} rows" in str(values["data"]) and "29+1" not in str(values)


def test_the_model_is_that_of_the_configuration() -> None:
    config = ModelConfig("embedded", dtype="float32", lora=pt.LoRA(r=4))
    values = record(config, pt.sft(ROWS))
    assert values["model"]["lora"]["r"] == 4 and values["model"]["dtype"] == "float32"
