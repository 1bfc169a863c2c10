from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from posttrain import registry
from posttrain.config import Component
from posttrain.evaluation.comparison import compare
from posttrain.evaluation.outcomes import Evaluation
from posttrain.evaluation.samples import measure_samples, measure_search
from posttrain.evaluation.strategy import make_strategy
from posttrain.rewards.grader import TaskGrader
from posttrain.types import Example, Request, Sample, Sampling, Task


class FakeEngine:
    """Answers the question with id q rightly with probability q / 10; tokens are [answer]."""

    weights_version = 0

    def __init__(self, bonus: float = 0.0) -> None:
        self.bonus = bonus

    def generate(self, requests: Sequence[Request]) -> list[list[Sample]]:
        return [[self._sample(r, i) for i in range(r.n)] for r in requests]

    def _sample(self, r: Request, i: int) -> Sample:
        lucky = np.random.default_rng((r.seed, i)).random() < r.prompt_ids[0] / 10 + self.bonus
        return Sample([1 if lucky else 2 + i % 3], [0.0], [-1.0 - i], "stop" if i % 4 else "length")

    def score(self, sequences: Sequence[tuple[Sequence[int], int]]) -> list[list[float]]:
        return [[] for _ in sequences]

    def sync(self, version: int) -> None:
        self.weights_version = version


def task() -> Task:
    examples = [Example("?", None, "1", id=f"q{i}") for i in range(1, 10)]
    return Task(
        "fake", examples, lambda text, e: float(text == e.answer), lambda text: text or None
    )


def decode(sample: Sample) -> str:
    return str(sample.ids[0])


class Tokenizer:
    """The text is the first id."""

    def decode(self, ids: Sequence[int], **_: object) -> str:
        return str(ids[0]) if ids else ""


def ask(bonus: float = 0.0, n: int = 40) -> Evaluation:
    made = task()
    prompts = [(e, (i,)) for i, e in enumerate(made.examples, 1)]
    return measure_samples(
        FakeEngine(bonus), prompts, made, decode, num_samples=n, sampling=Sampling(), seed=3
    )


def test_a_verifier_that_raises_is_counted() -> None:
    made = task()

    def fragile(text: str, example: Example) -> float:
        if text == "3":
            raise RuntimeError("oh")
        return float(text == "1")

    broken = Task("fake", made.examples, fragile, made.extract)
    prompts = [(e, (i,)) for i, e in enumerate(made.examples, 1)]
    found = measure_samples(
        FakeEngine(), prompts, broken, decode, num_samples=8, sampling=Sampling(), seed=0
    )
    assert found.errors > 0 and found.metrics()["errors"] == found.errors


def search(name: str, n: int, bonus: float = 0.0) -> Evaluation:
    made = task()
    prompts = [(e, (i,)) for i, e in enumerate(made.examples, 1)]
    settings = {} if name == "sample" else {"num_samples": n}
    scorer = Component("oracle") if "score" in registry.searches.entry(name).inputs else None
    strategy = make_strategy(Component(name, settings), scorer, oracle=False, task=made)
    assert strategy is not None
    return measure_search(
        FakeEngine(bonus), prompts, made, Tokenizer(), strategy, sampling=Sampling(), seed=3
    )


def test_search_counts_every_token_and_helps() -> None:
    vote = search("majority_vote", 15)
    assert vote.accuracy().estimate > ask().accuracy().estimate
    assert vote.metrics()["mean_tokens"] == 15 and vote.search == "majority_vote"
    best = search("best_of_n", 15)
    assert (
        best.accuracy().estimate >= vote.accuracy().estimate
    )  # a perfect score finds any right sample
    assert compare(ask(), vote).difference.n == 9


@pytest.mark.parametrize("name", ["majority_vote", "weighted_vote", "best_of_n", "most_likely"])
def test_one_sample_of_any_strategy_is_plain_sampling(name: str) -> None:
    one, plain = search(name, 1), search("sample", 1)
    assert [o.answers for o in one.outcomes] == [o.answers for o in plain.outcomes]
    assert [o.correct for o in plain.outcomes] == [o.correct for o in ask(n=1).outcomes]


def test_a_verifier_that_exits_is_counted_and_ends_nothing() -> None:
    def leave(*arguments: object) -> float:
        raise SystemExit(0)

    task = Task("leaving", [Example("p", None, "1", {}, id="e")], leave, leave)
    verifier = TaskGrader(task)
    assert (
        verifier.correct(["x"], task.examples[0]) == [0]
        and verifier.answer("x") is None
        and verifier.errors == 2
    )
