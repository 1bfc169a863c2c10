"""Rounds of `fit`: numbered on, in folders, read where they are done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from support import lines, told, weights, weights_of

import posttrain as pt
from posttrain.errors import CheckpointError, ConfigError
from posttrain.training.plan import AdamW, PreparedLoop, Rounds

QUIET = Console(quiet=True)
ROWS = [{"prompt": f"{a}+2=", "completion": f" {a + 2}"} for a in range(3, 19)]


def plan(schedule: Any = "cosine", learning_rate: float = 1e-3) -> pt.Plan:
    return pt.sft(ROWS, learning_rate=learning_rate, batch_size=4, lr_scheduler_type=schedule)


def loop(restart: bool = False, num_steps: int = 2, **settings: Any) -> pt.Loop:
    """Rounds over the same rows."""
    one = plan(**settings)

    def prepare(spec: Any, seed: int, steps: int | None) -> PreparedLoop:
        total = steps or 6

        def run(rounds: Rounds) -> None:
            while rounds.step < total:
                rounds.fit(one, steps=min(num_steps, total - rounds.step), restart=restart)

        return PreparedLoop(steps=total, run=run, facts=[], restarts=restart)

    optimizer = AdamW(one.optimizer.learning_rate, one.optimizer.lr_scheduler_type)
    return pt.Loop(method="rounds", prepare=prepare, optimizer=optimizer, settings=settings)


def numbers(rows: Any) -> list[dict[str, float]]:
    """Metrics without those that depend on the machine."""
    timed = ("step_time", "tokens_per_second", "memory/peak_mib")
    return [{k: v for k, v in row.items() if k not in timed} for row in rows]


@pytest.fixture(scope="module")
def whole(tiny_folder: Path) -> pt.Result:
    return pt.fit(tiny_folder, plan(), steps=6, console=QUIET)


def test_three_rounds_in_memory_are_one_fit(tiny_folder: Path, whole: pt.Result) -> None:
    model = pt.load(tiny_folder)
    steps: list[int] = []
    result = pt.fit(model, loop(), console=QUIET, hooks=[lambda step, m: steps.append(step)])
    assert result.model is model and weights_of(model) == weights_of(whole.model)
    assert numbers(result.metrics) == numbers(whole.metrics)
    assert steps == [1, 2, 3, 4, 5, 6] and result.folder is None
    longer = pt.fit(model, plan(), steps=1, after=result, console=QUIET)
    assert longer.metrics["step"] == [7]


class Killed(Exception):
    """Raised in the middle of a round."""


@pytest.mark.parametrize("at", [3, 4], ids=["in a round", "at its end"])
def test_a_killed_loop_goes_on_exactly(
    tiny_folder: Path, tmp_path: Path, whole: pt.Result, at: int
) -> None:
    def kill(step: int, metrics: dict[str, float]) -> None:
        if step == at:
            raise Killed

    folder = tmp_path / "run"
    options: dict[str, Any] = {"output": folder, "save_every": 1, "console": QUIET}
    with pytest.raises(Killed):
        pt.fit(tiny_folder, loop(), hooks=[kill], **options)
    assert [row["step"] for row in lines(folder / "metrics.jsonl")] == list(range(1, at))
    assert not (folder / "model").exists()
    result = pt.fit(tiny_folder, loop(), resume=True, **options)
    assert weights_of(result.model) == weights_of(whole.model)
    assert numbers(lines(folder / "metrics.jsonl")) == numbers(whole.metrics)
    assert weights(folder) == weights(folder / "round-3")
    # The checkpoints of rounds that others have gone on from are gone.
    left = sorted(str(p.relative_to(folder)) for p in folder.glob("round-*/checkpoint-*"))
    assert left == ["round-3/checkpoint-5", "round-3/checkpoint-6"]
    again = pt.fit(tiny_folder, loop(), resume=True, **options)
    assert weights_of(again.model) == weights_of(whole.model)


def test_a_loop_grows_where_its_rates_stay(tiny_folder: Path, tmp_path: Path) -> None:
    constant = loop(schedule="constant")
    options: dict[str, Any] = {"output": tmp_path / "run", "console": QUIET}
    pt.fit(tiny_folder, constant, steps=3, **options)
    result = pt.fit(tiny_folder, constant, steps=6, resume=True, **options)
    whole = pt.fit(tiny_folder, plan("constant"), steps=6, console=QUIET)
    assert weights_of(result.model) == weights_of(whole.model)
    assert (tmp_path / "run" / "model-3").is_dir()  # that of the shorter loop
    assert [row["step"] for row in told(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]


def test_changes_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"output": tmp_path / "run", "console": QUIET}
    pt.fit(tiny_folder, loop(), steps=2, **options)
    with pytest.raises(ConfigError, match="already holds a run"):
        pt.fit(tiny_folder, loop(), steps=2, **options)
    with pytest.raises(CheckpointError, match="learning_rate: "):
        pt.fit(tiny_folder, loop(learning_rate=2e-3), steps=2, resume=True, **options)
    with pytest.raises(
        CheckpointError, match=r"accept=\['max_steps'\]"
    ):  # the schedule is a cosine
        pt.fit(tiny_folder, loop(), steps=4, resume=True, **options)
    with pytest.raises(ConfigError, match="is a loop"):
        pt.fit(tiny_folder, loop(), schedule_steps=4, console=QUIET)


def test_a_restarted_round_begins_at_the_start(tiny_folder: Path, tmp_path: Path) -> None:
    rounds = loop(restart=True, schedule="constant")
    result = pt.fit(tiny_folder, rounds, output=tmp_path / "run", console=QUIET)
    alone = pt.fit(tiny_folder, plan("constant"), steps=6, console=QUIET)
    assert result.metrics["step"] == [1, 2, 3, 4, 5, 6]
    # Steps 3 and 4 train other rows than 1 and 2, from the same weights.
    assert result.metrics["loss"][2] != alone.metrics["loss"][2]
    first = pt.load(tmp_path / "run" / "round-1" / "model")
    assert weights_of(first) != weights_of(result.model)


def test_a_stop_at_the_end_of_a_round_ends_the_loop(
    run_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    from support import stopped_and_resumed

    raw = {
        "method": "spin",
        "task": {"name": "arithmetic", "num_examples": 4, "num_steps": 1},
        "batch_size": 2,
        "sampling": {"max_tokens": 6},
        "num_rounds": 2,
        "max_steps": 4,
    }
    whole, half = stopped_and_resumed(run_recipe, tmp_path, 2, **raw)
    assert weights(whole) == weights(half) and told(whole) == told(half)
