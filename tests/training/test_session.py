"""One training, from a plan and a model to a result."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from support import lines, weights_of

import posttrain as pt
from posttrain.errors import ConfigError, TrainingDiverged
from posttrain.models.loaded import trained_weights
from posttrain.models.spec import model_spec
from posttrain.training.session import Session
from posttrain.training.settings import TrainingSettings

QUIET = Console(quiet=True)
ROWS = [{"prompt": f"{a}+1=", "completion": f" {a + 1}"} for a in range(8)]


class Counting:
    """An evaluation that counts how often it is asked."""

    def __init__(self) -> None:
        self.count = 0

    def of(self, model: Any) -> Any:
        self.count += 1
        accuracy = {"estimate": 0.5, "low": 0.4, "high": 0.6}
        values = {"accuracy": accuracy, "mean_tokens": 3.0, "truncated": 0.0}
        return SimpleNamespace(metrics=lambda: values, to_json=lambda: {"metrics": values})

    def report(self, evaluation: Any, console: Console) -> None:
        pass


def session(
    folder: Path, plan: pt.Plan | None = None, steps: int | None = 2, **options: Any
) -> Session:
    settings = options.pop("settings", TrainingSettings())
    return Session(
        model_spec(str(folder)),
        plan or pt.sft(ROWS, batch_size=4, learning_rate=1e-3, eval_data=ROWS[:2]),
        settings,
        folder=None,
        steps=steps,
        seed=0,
        console=QUIET,
        **options,
    )


def test_a_result_has_a_row_per_step_behind_that_of_the_start(tiny_folder: Path) -> None:
    seen: list[int] = []
    result = session(tiny_folder, hooks=[lambda step, metrics: seen.append(step)]).run()
    assert [row["step"] for row in result.metrics] == [0, 1, 2] and seen == [1, 2]
    assert "eval_loss" in result.metrics[0] and result.metrics[-1]["eval_loss"] > 0
    assert result.folder is None and result.rollouts == []
    assert not result.model.hf.training


def test_epochs_decide_where_steps_are_not_given(tiny_folder: Path) -> None:
    plan = pt.sft(ROWS, batch_size=3, num_train_epochs=2.0)
    made = session(tiny_folder, plan, steps=None)
    assert made.work.steps == 6  # three steps of 3, 3 and 2 rows, twice
    assert made.title == "sft" and session(tiny_folder, title="mine").title == "mine"


@pytest.mark.parametrize(("every", "times"), [(0, 1), (1, 3), (2, 2)])
def test_the_measure_of_the_last_step_is_not_taken_twice(
    tiny_folder: Path, every: int, times: int
) -> None:
    evaluation = Counting()
    settings = TrainingSettings(eval_every=every)
    result = session(tiny_folder, steps=3, settings=settings, evaluation=evaluation).run()
    assert evaluation.count == times and result.evaluation is not None
    measured = [row["step"] for row in result.metrics if "evaluation/accuracy" in row]
    assert measured == [step for step in (1, 2, 3) if every and step % every == 0]


def test_measuring_leaves_no_trace_in_the_weights(tiny_folder: Path) -> None:
    settings = TrainingSettings(eval_every=1)
    measured = session(tiny_folder, settings=settings, evaluation=Counting()).run()
    assert weights_of(measured.model) == weights_of(session(tiny_folder).run().model)


def test_work_is_closed_although_the_training_fails(tiny_folder: Path) -> None:
    closed: list[int] = []
    made = session(tiny_folder)
    made.work = dataclasses.replace(made.work, close=lambda: closed.append(1))

    def fail(step: int, metrics: dict[str, float]) -> None:
        raise ZeroDivisionError

    made.hooks = [fail]
    with pytest.raises(ZeroDivisionError):
        made.run()
    assert closed == [1]


def test_a_model_that_diverged_is_in_evaluation_mode(tiny_folder: Path) -> None:
    model = pt.load(tiny_folder, dtype="float32")
    with torch.no_grad():
        model.trainable_parameters()[0].fill_(float("nan"))
    before = torch.get_rng_state()
    with pytest.raises(TrainingDiverged):
        pt.fit(model, pt.sft(ROWS, batch_size=4), steps=2, console=QUIET)
    assert not model.hf.training and torch.equal(torch.get_rng_state(), before)


def test_a_tracker_that_nobody_knows_is_refused_before_the_rows_are_read(
    tiny_folder: Path, tmp_path: Path
) -> None:
    plan = pt.sft(tmp_path / "absent.jsonl")
    with pytest.raises(ConfigError, match="report_to"):
        session(tiny_folder, plan, settings=TrainingSettings(report_to=("tensorbord",)))


def test_noise_ends_with_the_training(tiny_folder: Path) -> None:
    plan = pt.sft(ROWS, batch_size=4, neftune_noise_alpha=5.0)
    assert session(tiny_folder, plan).run().model.neftune_noise_alpha == 0.0


def test_a_folder_holds_what_the_result_says(tiny_folder: Path, tmp_path: Path) -> None:
    plan = pt.sft(ROWS, batch_size=4, learning_rate=1e-3)
    result = pt.fit(tiny_folder, plan, steps=2, output=tmp_path / "run", console=QUIET)
    assert result.folder == tmp_path / "run"
    assert list(result.metrics) == lines(tmp_path / "run" / "metrics.jsonl")
    assert (tmp_path / "run" / "model" / "config.json").is_file()


def test_the_model_is_the_average_and_checkpoints_hold_the_weights(
    tiny_folder: Path, tmp_path: Path
) -> None:
    """By hand from the weights after each step: average <- (average + weights) / 2."""
    options: dict[str, Any] = {"steps": 3, "console": QUIET, "seed": 1}
    seen: list[dict[str, torch.Tensor]] = []
    plain = pt.load(tiny_folder, dtype="float32")
    start = trained_weights(plain)

    def watch(step: int, metrics: dict[str, float]) -> None:
        seen.append(trained_weights(plain))

    pt.fit(plain, pt.sft(ROWS), hooks=[watch], **options)
    expected = {name: value.clone() for name, value in start.items()}
    for weights in seen:
        expected = {name: torch.lerp(value, weights[name], 0.5) for name, value in expected.items()}
    model = pt.load(tiny_folder, dtype="float32")
    output = tmp_path / "run"
    result = pt.fit(model, pt.sft(ROWS), ema_decay=0.5, output=output, **options)
    saved = trained_weights(pt.load(output / "model", dtype="float32"))
    trained = trained_weights(pt.load(output / "checkpoint-3", dtype="float32"))
    for name, value in expected.items():
        torch.testing.assert_close(saved[name], value, rtol=0, atol=1e-6)
        assert torch.equal(saved[name], trained_weights(result.model)[name])
        assert torch.equal(trained[name], seen[-1][name])


def test_evaluations_and_held_out_losses_are_of_the_average(tiny_folder: Path) -> None:
    """With a decay near 1 the average is the model of the start, whatever is trained."""
    losses: list[float] = []

    class Loss(Counting):
        def of(self, model: Any) -> Any:
            losses.append(float(trained_weights(model)["model.embed_tokens.weight"].sum()))
            return super().of(model)

    model = pt.load(tiny_folder, dtype="float32")
    start = float(trained_weights(model)["model.embed_tokens.weight"].sum())
    result = pt.fit(
        model,
        pt.sft(ROWS, eval_data=ROWS, learning_rate=1e-2),
        steps=2,
        ema_decay=1 - 1e-9,
        eval_every=1,
        evaluation=Loss(),
        console=QUIET,
    )
    held_out = [row["eval_loss"] for row in result.metrics.rows if "eval_loss" in row]
    assert held_out == pytest.approx([held_out[0]] * 3, rel=1e-5)
    assert losses == pytest.approx([start] * len(losses), rel=1e-4)
    assert result.metrics["loss"][1] < result.metrics["loss"][0]


def test_memory_of_the_optimiser_is_a_metric(tiny_folder: Path) -> None:
    sizes = {}
    for name in ("adamw", "adamw_8bit"):
        model = pt.load(tiny_folder, dtype="float32")
        result = pt.fit(model, pt.sft(ROWS), steps=1, optimizer=name, console=QUIET)
        sizes[name] = result.metrics["memory/optimizer_mib"][-1] * 2**20
    count = sum(p.numel() for p in model.trainable_parameters())
    assert sizes["adamw"] == pytest.approx(8 * count, rel=0.01)
    assert sizes["adamw_8bit"] < sizes["adamw"]


def test_an_average_beside_fits_that_go_on_is_refused(tiny_folder: Path) -> None:
    model = pt.load(tiny_folder, dtype="float32")
    first = pt.fit(model, pt.sft(ROWS), steps=1, console=QUIET)
    with pytest.raises(ConfigError, match="^ema_decay: 0.5"):
        pt.fit(model, pt.sft(ROWS), steps=1, after=first, ema_decay=0.5, console=QUIET)
    loop = pt.self_training(pt.make_task([{"prompt": "1+1=", "answer": "2"}]))
    with pytest.raises(ConfigError, match="^ema_decay: 0.5"):
        pt.fit(model, loop, steps=1, ema_decay=0.5, console=QUIET)
