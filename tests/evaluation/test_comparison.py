from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from posttrain.errors import DataError
from posttrain.evaluation.comparison import compare, compare_files, unlikeness
from posttrain.evaluation.outcomes import Evaluation, read_evaluation
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


def test_comparison_is_paired(tmp_path: Path) -> None:
    better = compare(ask(), ask(0.08))
    assert better.difference.estimate > 0 and better.p_value < 0.01 and better.mcnemar is None
    single = compare(ask(n=1), ask(0.3, n=1))
    assert single.mcnemar is not None and "McNemar" in str(single)
    assert compare(ask(), ask()).p_value == 1.0
    other = ask()
    other.outcomes.pop()
    with pytest.raises(DataError, match="not of the same questions.*8 shared"):
        compare(ask(), other)
    for name, evaluation in (("a", ask()), ("b", ask(0.08))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "evaluation.json").write_text(json.dumps(evaluation.to_json()))
    assert "second minus first: difference +" in compare_files(tmp_path / "a", tmp_path / "b")
    with pytest.raises(DataError, match="no evaluation at"):
        read_evaluation(tmp_path / "c")
    (tmp_path / "a" / "evaluation.json").write_text("{}")
    with pytest.raises(DataError, match="is not an evaluation"):
        read_evaluation(tmp_path / "a")


def test_ids_alone_do_not_make_the_same_questions(tmp_path: Path) -> None:
    """Another prompt or another answer under the same ids is another question."""
    for change in ({"prompt": "other"}, {"answer": "9"}):
        other = ask(0.08)
        for name, value in change.items():
            setattr(other.outcomes[2], name, value)
        with pytest.raises(
            DataError, match="9 shared by id, 1 of them with another prompt or answer, first 'q3'"
        ):
            compare(ask(), other)


def test_older_files_are_read_and_compared_by_their_questions() -> None:
    """They hold prompts and answers, and neither fingerprints nor what a search chose by."""
    older = ask().to_json()
    for key in (
        "task_settings",
        "num_available",
        "search_settings",
        "strategy",
        "scorer",
        "oracle",
    ):
        del older[key]
    for example in older["examples"]:
        assert len(example.pop("fingerprint")) == 24
    read = Evaluation.from_json(older)
    assert (
        compare(read, ask()).p_value == 1.0
        and read.oracle is False
        and read.problems == "9 problems"
    )
    assert unlikeness(read, ask()) == []
    oracle = Evaluation.from_json({**older, "search": "best_of_n"})
    assert oracle.oracle is None and any(
        "may be an oracle" in line for line in unlikeness(read, oracle)
    )
    older["examples"][0]["answer"] = "another"
    with pytest.raises(DataError, match="not of the same questions"):
        compare(Evaluation.from_json(older), ask())


def test_a_question_that_is_asked_twice_is_paired_in_order() -> None:
    def twice() -> Evaluation:
        found = ask()
        found.outcomes[1].id = found.outcomes[0].id = "twin"
        return found

    assert compare(twice(), twice()).difference.estimate == 0.0
    other = twice()
    other.outcomes[1].answer = "7"
    with pytest.raises(DataError, match="not of the same questions"):
        compare(twice(), other)


def test_unlike_sampling_is_named() -> None:
    other = ask(n=8)
    other.sampling = {**other.sampling, "temperature": 0.5}
    other.seed = 4
    assert unlikeness(ask(), other) == [
        "num_samples: 40 and 8",
        "seed: 3 and 4",
        "sampling.temperature: 1.0 and 0.5",
    ]
