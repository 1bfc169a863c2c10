from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from posttrain.evaluation.outcomes import Evaluation
from posttrain.evaluation.samples import measure_samples
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


def ask(bonus: float = 0.0, n: int = 40) -> Evaluation:
    made = task()
    prompts = [(e, (i,)) for i, e in enumerate(made.examples, 1)]
    return measure_samples(
        FakeEngine(bonus), prompts, made, decode, num_samples=n, sampling=Sampling(), seed=3
    )


def test_metrics_of_known_probabilities(tmp_path: Path) -> None:
    found = ask()
    assert found.accuracy().estimate == pytest.approx(0.5, abs=0.05)
    assert (
        found.means() == sorted(found.means()) or np.corrcoef(found.means(), range(9))[0, 1] > 0.95
    )
    metrics = found.metrics()
    assert (
        metrics["pass@32"]["estimate"]
        > metrics["pass@2"]["estimate"]
        > metrics["accuracy"]["estimate"]
    )
    assert metrics["mean_tokens"] == 1 and metrics["truncated"] == 0.25 and metrics["unparsed"] == 0
    again = Evaluation.from_json(json.loads(json.dumps(found.to_json())))
    assert again.metrics() == metrics and again.outcomes == found.outcomes


def test_pass_and_vote_at_all_samples() -> None:
    metrics = ask(n=10).metrics()
    assert [name for name in metrics if name.startswith("pass@")] == [
        "pass@2",
        "pass@4",
        "pass@8",
        "pass@10",
    ]
    solved = [any(o.correct) for o in ask(n=10).outcomes]
    assert metrics["pass@10"]["estimate"] == pytest.approx(sum(solved) / len(solved))


def test_problems_that_are_left_out_are_named() -> None:
    found = ask()
    found.num_available = 12
    assert found.problems == "9 of 12 problems" and found.to_json()["num_available"] == 12
