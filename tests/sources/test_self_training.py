"""Rounds of sampling, selection and imitation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from posttrain.errors import DataError
from posttrain.rewards.base import RewardSet
from posttrain.sources.collect import Collector, Prompt
from posttrain.sources.selection import Rule
from posttrain.sources.self_training import SelfTrainingSource
from posttrain.types import Example, Request, Sample, Sampling, Task


class Scripted:
    """An engine that answers by the first token of the prompt, and remembers what it was asked."""

    def __init__(self, answers: Callable[[tuple[int, ...], int], list[int]]) -> None:
        self.answers = answers
        self.weights_version = 0
        self.asked: list[tuple[int, ...]] = []

    def generate(self, requests: Sequence[Request]) -> list[list[Sample]]:
        self.asked += [r.prompt_ids for r in requests]
        return [
            [
                Sample(ids, [0.0] * len(ids), [0.0] * len(ids), "stop")
                for k in range(r.n)
                for ids in [self.answers(r.prompt_ids, k)]
            ]
            for r in requests
        ]

    def score(self, sequences: Any) -> list[list[float]]:
        return []

    def sync(self, version: int) -> None:
        self.weights_version = version


def source(engine: Scripted, **more: Any) -> SelfTrainingSource:
    """Prompts (1,), (2,), (3,), whose right answers are the tokens 11, 12, 13."""
    examples = [Example(str(i), answer=f"[{10 + i}]", id=str(i)) for i in (1, 2, 3)]
    task = Task("toy", examples, lambda text, e: float(text == e.answer), str)
    collector = Collector(
        [Prompt(e, (i + 1,)) for i, e in enumerate(examples)],
        engine,
        RewardSet([("task", 1.0, {})], task=task),
        decode=lambda s: str(s.ids),
        sampling=Sampling(max_tokens=4),
        batch_size=3,
        num_generations=2,
        seed=0,
    )
    return SelfTrainingSource(collector, Rule(), **{"batch_size": 2, "steps_per_round": 3, **more})


def rows(batches: Any) -> list[tuple[list[int], list[int]]]:
    found = [s for b in batches for t in b.trees for s in t.sequences]
    return [(s.ids[~s.loss_mask].tolist(), s.ids[s.loss_mask].tolist()) for s in found]


def test_a_round_samples_once_and_imitates_what_passed() -> None:
    engine = Scripted(lambda p, k: [10 + p[0]] if p[0] != 2 else [0])
    s = source(engine)
    steps = [rows(s.batches(step)) for step in range(3)]
    assert len(engine.asked) == 3 and sorted(steps[0]) == [([1], [11]), ([3], [13])]
    assert all(sorted(step) == sorted(steps[0]) for step in steps)
    rows(s.batches(3))
    assert len(engine.asked) == 6 and s.metrics().means()["filter/pass_rate"] == pytest.approx(
        2 / 3
    )
    assert s.metrics().means()["round"] == 2
    rows(s.batches(4))
    assert "filter/pass_rate" not in s.metrics().means() and s.groups == []


def test_a_round_that_stopped_goes_on_with_the_same_rows() -> None:
    answers: Callable[[tuple[int, ...], int], list[int]] = lambda p, k: [10 + p[0]]  # noqa: E731
    a, b = source(Scripted(answers), batch_size=1), source(Scripted(answers), batch_size=1)
    for step in range(2):
        rows(a.batches(step))
    b.load_state(a.state())
    assert rows(a.batches(2)) == rows(b.batches(2)) and not b.collector.engine.asked  # type: ignore[attr-defined]


def test_weights_come_back_after_sampling_and_rows_may_gather() -> None:
    calls: list[int] = []
    engine = Scripted(lambda p, k: [10 + p[0]])
    s = source(engine, restart=lambda: calls.append(len(engine.asked)), accumulate=True)
    for step in range(7):
        rows(s.batches(step))
    assert calls == [6, 9]  # not in the first round; each time when the round's sampling was done
    assert len(s.state()["rows"]) == 9


def test_a_failed_prompt_is_asked_again_with_its_answer() -> None:
    engine = Scripted(lambda p, k: [10 + p[-1]] if len(p) > 1 or p[0] == 1 else [0])
    s = source(engine, hints={str(i): (9, i) for i in (1, 2, 3)})
    first = list(s.batches(0))
    assert s.metrics().means()["filter/rationalised"] == 2
    batch = sorted(rows([*first, *s.batches(1)]))
    assert engine.asked[3:] == [(9, 2), (9, 3)] or engine.asked[3:] == [(9, 3), (9, 2)]
    assert batch == [
        ([1], [11]),
        ([2], [12]),
        ([3], [13]),
    ]  # learnt as if the answer had not been told


def test_a_round_that_keeps_nothing_is_an_error() -> None:
    with pytest.raises(
        DataError,
        match=r"round 1: nothing is kept. 0 of 6 completions .* a pass rate of 0%; .* easier "
        r"problems",
    ):
        list(source(Scripted(lambda p, k: [0])).batches(0))
