"""Labels of steps from scripted continuations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from posttrain.sources.step_labels import Solution, StepLabeller
from posttrain.types import Example, Request, Sample, Sampling

EXAMPLE = Example("p", answer="right")


class Continuing:
    """An engine whose continuations are right from some lengths of the prefix."""

    def __init__(self, right: dict[int, int]) -> None:
        self.right = right  # length of the prompt -> how many of its samples are right
        self.asked: list[Request] = []

    def generate(self, requests: Sequence[Request]) -> list[list[Sample]]:
        self.asked += requests
        return [
            [
                Sample(
                    [99 if k < self.right.get(len(r.prompt_ids), 0) else 98], [0.0], [0.0], "stop"
                )
                for k in range(r.n)
            ]
            for r in requests
        ]


def labeller(engine: Any) -> StepLabeller:
    return StepLabeller(
        engine,
        judge=lambda text, example: float(text.endswith("99]")),
        decode=lambda sample: str(sample.ids),
        sampling=Sampling(max_tokens=20),
        num_rollouts=4,
        seed=5,
    )


def solution(num_steps: int, right: bool) -> Solution:
    """Two prompt tokens and steps of two tokens."""
    ids = tuple(range(10, 10 + 2 * num_steps))
    return Solution(EXAMPLE, (1, 2), ids, [2 * i + 1 for i in range(num_steps)], right)


def test_every_step_has_the_share_of_right_continuations() -> None:
    engine = Continuing({4: 4, 6: 1, 8: 0})
    steps, some = labeller(engine), solution(4, False)
    steps.every_step([some])
    assert some.shares == {0: 1.0, 1: 0.25, 2: 0.0, 3: 0.0}
    assert some.labels() == [1.0, 1.0, 0.0, 0.0]
    assert some.labels(soft=True) == [1.0, 0.25, 0.0, 0.0]
    assert (steps.num_samples, steps.num_tokens) == (12, 12)
    assert [r.prompt_ids for r in engine.asked] == [some.prefix(i) for i in range(3)]
    assert some.prefix(0) == (1, 2, 10, 11)
    # prefix and continuation have max_tokens together
    assert [r.sampling.max_tokens for r in engine.asked] == [18, 16, 14]
    assert all(r.seed == 5 and r.n == 4 for r in engine.asked)


def test_the_last_step_is_the_verdict_and_costs_nothing() -> None:
    engine = Continuing({})
    some = solution(1, True)
    labeller(engine).every_step([some])
    assert some.labels() == [1.0] and engine.asked == []


@pytest.mark.parametrize("first_wrong", range(8))
def test_the_first_wrong_step_is_found_by_halving(first_wrong: int) -> None:
    engine = Continuing({4 + 2 * i: 1 for i in range(first_wrong)})
    some = solution(8, False)
    labeller(engine).first_wrong_step([some])
    assert some.labels() == [float(i < first_wrong) for i in range(8)]
    assert len(engine.asked) <= 3


def test_a_right_solution_has_no_wrong_step() -> None:
    engine = Continuing({})
    right, wrong = solution(5, True), solution(2, False)
    labeller(engine).first_wrong_step([right, wrong])
    assert right.labels() == [1.0] * 5
    assert wrong.labels() == [0.0, 0.0]
    assert len(engine.asked) == 1
