"""Rounds of `fit`: numbered on, in folders, read where they are done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rounds_of_rows import QUIET, loop, numbers, plan
from support import lines, weights, weights_of

import posttrain as pt


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


def test_a_restarted_round_begins_at_the_start(tiny_folder: Path, tmp_path: Path) -> None:
    rounds = loop(restart=True, schedule="constant")
    result = pt.fit(tiny_folder, rounds, output=tmp_path / "run", console=QUIET)
    alone = pt.fit(tiny_folder, plan("constant"), steps=6, console=QUIET)
    assert result.metrics["step"] == [1, 2, 3, 4, 5, 6]
    # Steps 3 and 4 train other rows than 1 and 2, from the same weights.
    assert result.metrics["loss"][2] != alone.metrics["loss"][2]
    first = pt.load(tmp_path / "run" / "round-1" / "model")
    assert weights_of(first) != weights_of(result.model)
