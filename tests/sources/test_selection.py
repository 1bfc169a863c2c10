"""What self-training keeps, and the rounds of it, with an engine that says what it is told to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from posttrain.errors import ConfigError, DataError
from posttrain.rewards.base import RewardSet
from posttrain.sources.collect import Collector, Prompt
from posttrain.sources.selection import Rule, filter_metrics
from posttrain.sources.self_training import SelfTrainingSource
from posttrain.types import Example, Request, Rollout, RolloutGroup, Sample, Sampling, Task


def group(*marks: tuple[str, float | None]) -> RolloutGroup:
    rollouts = [
        Rollout(Sample([ord(c) for c in text], [], [], "stop"), text, reward=reward)
        for text, reward in marks
    ]
    return RolloutGroup(Example("q", answer="a", id="q"), (1, 2), rollouts)


def texts(kept: Sequence[Sequence[Rollout]]) -> list[list[str]]:
    return [[r.text for r in row] for row in kept]


ONE = group(("a", 1.0), ("b", 0.0), ("a", 1.0), ("", 1.0), ("c", None), ("d", 1.0))
TWO = group(("x", 0.2), ("y", 0.7), ("z", 0.7))
AGAIN = group(("a", 1.0), ("b", 1.0), ("a", 1.0))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (Rule(), [["a", "d"], []]),
        (Rule(distinct=False), [["a", "a", "d"], []]),
        (Rule(min_reward=0.5), [["a", "d"], ["y", "z"]]),
        (Rule(min_reward=None, max_per_prompt=1), [["a"], ["y"]]),  # best of n; ties to the first
        (Rule(min_reward=0.1, max_per_prompt=2), [["a", "d"], ["y", "z"]]),
        (
            Rule(min_reward=None, top_fraction=0.5),
            [["a", "d"], ["y"]],
        ),  # 3 of 6: one of the two that tie
        (Rule(min_reward=None, top_fraction=0.01), [["a"], []]),
    ],
)
def test_what_is_kept(rule: Rule, expected: list[list[str]]) -> None:
    assert texts(rule.keep([ONE, TWO])) == expected


def test_equal_completions_stand_where_the_first_was_sampled() -> None:
    assert texts(Rule(max_per_prompt=1).keep([AGAIN])) == [["a"]]


def test_metrics_are_shares_of_what_was_sampled() -> None:
    kept = Rule().keep([ONE, TWO])
    told = filter_metrics([ONE, TWO], kept, Rule())
    assert told["filter/pass_rate"] == pytest.approx(4 / 9) and told[
        "filter/distinct"
    ] == pytest.approx(8 / 9)
    assert (told["filter/num_kept"], told["filter/kept"], told["filter/prompts_kept"]) == (
        2,
        pytest.approx(2 / 9),
        0.5,
    )


@pytest.mark.parametrize(
    ("rule", "num", "message"),
    [
        (Rule(top_fraction=0.0), 4, "top_fraction: 0.0"),
        (Rule(max_per_prompt=0), 4, "max_per_prompt: 0"),
        (Rule(), 0, "num_generations: 0"),
        (Rule(min_reward=None), 4, "nothing is filtered"),
        (
            Rule(min_reward=None, max_per_prompt=4),
            4,
            "max_per_prompt 4 is no bound for num_generations 4",
        ),
        (
            Rule(min_reward=None, max_per_prompt=1),
            1,
            "nothing is filtered",
        ),  # a group of one has no best
    ],
)
def test_rules_that_cannot_work(rule: Rule, num: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        rule.check(num)


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

    def load_weights(self, version: int) -> None:
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
