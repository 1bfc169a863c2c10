"""Plans are frozen data; making one and preparing it loads no weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from support import without_weights

import posttrain as pt
from posttrain.config import Limits
from posttrain.errors import ConfigError, DataError
from posttrain.models.spec import model_spec
from posttrain.training.plan import AdamW, Critic, check_positive, settings_of, steps_of

ROWS = [{"prompt": f"{i}+1=", "completion": f" {i + 1}"} for i in range(10)]


@pytest.mark.parametrize(
    ("steps", "epochs", "per_epoch", "expected"),
    [
        (7, 3.0, 100, 7),
        (None, 1.0, 100, 100),
        (None, 2.5, 3, 8),  # 7.5 steps
        (None, 0.001, 100, 1),
        (None, 0.0, 100, 1),
    ],
)
def test_steps_are_as_asked_or_as_many_as_the_epochs_take(
    steps: int | None, epochs: float, per_epoch: int, expected: int
) -> None:
    assert steps_of(steps, epochs, per_epoch) == expected


def test_counts_below_one_are_refused() -> None:
    check_positive(batch_size=1, num_generations=None)
    with pytest.raises(ConfigError, match="num_generations: 0"):
        check_positive(batch_size=4, num_generations=0)


def test_settings_are_a_copy() -> None:
    values = {"batch_size": 4}
    settings = settings_of(values)
    values["batch_size"] = 5
    assert settings == {"batch_size": 4}


def test_a_plan_is_frozen_and_holds_what_the_method_was_called_with() -> None:
    plan = pt.sft(ROWS, learning_rate=3e-4, batch_size=5, neftune_noise_alpha=2.0)
    assert (plan.method, plan.noise, plan.teacher, plan.critic) == ("sft", 2.0, None, None)
    assert plan.settings["batch_size"] == 5 and plan.settings["learning_rate"] == 3e-4
    assert plan.optimizer == AdamW(3e-4, plan.optimizer.lr_scheduler_type)
    for value in (plan, plan.optimizer, Critic(), plan.reference):
        field = dataclasses.fields(value)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, field, None)


def test_preparing_a_plan_loads_no_weights(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_weights(monkeypatch)
    spec = model_spec(tiny_folder)
    plan = pt.sft(ROWS, batch_size=4, num_train_epochs=2)
    assert plan.prepare(spec, 0, None).steps >= 1
    assert plan.prepare(spec, 0, 17).steps == 17
    work = pt.grpo(pt.make_task([{"prompt": "a"}]), rewards=["length"]).prepare(spec, 0, 3)
    assert work.samples and work.steps == 3
    assert dict(work.facts)


@pytest.mark.parametrize(
    ("settings", "error", "value"),
    [
        ({"losses": ["nol"]}, ConfigError, "'nol'"),
        ({"losses": [{"name": "nll", "on": "given"}]}, ConfigError, "'given'"),
        ({"data": []}, DataError, "rows"),
    ],
)
def test_mistakes_are_found_before_weights(
    tiny_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, object],
    error: type[Exception],
    value: str,
) -> None:
    without_weights(monkeypatch)
    arguments = {"data": ROWS, **settings}
    with pytest.raises(error, match=value):
        pt.fit(tiny_folder, pt.sft(**arguments), steps=1)  # type: ignore[arg-type]


def test_limits_are_part_of_the_plan(tiny_folder: Path) -> None:
    task = pt.make_task([{"prompt": "a"}, {"prompt": "a" * 100_000}])
    spec = model_spec(tiny_folder)
    strict = pt.grpo(task, rewards=["length"], limits=Limits(max_prompts_dropped=0.0))
    with pytest.raises((ConfigError, DataError), match="max_prompts_dropped=0"):
        strict.prepare(spec, 0, 1)
    lenient = pt.grpo(task, rewards=["length"], limits=Limits(max_prompts_dropped=0.5))
    assert lenient.prepare(spec, 0, 1).account.metrics["data/prompts_dropped"] == 1


def test_a_plan_and_a_task_show_themselves_on_one_line() -> None:
    rows = [{"prompt": "a", "completion": "b"}]
    assert repr(pt.sft(rows, learning_rate=1e-3)) == ("Plan(sft: nll; learning_rate=0.001, linear)")
    assert repr(pt.make_task([{"prompt": "a", "answer": "1"}])) == "Task('rows', 1 examples)"
    assert repr(pt.make_task([{"prompt": "a"}])) == "Task('rows', 1 examples, no verdict)"
