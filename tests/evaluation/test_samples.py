from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from posttrain import registry
from posttrain.config import Component
from posttrain.errors import DataError
from posttrain.evaluation.comparison import compare, compare_files, unlikeness
from posttrain.evaluation.outcomes import Evaluation, read_evaluation
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

    def load_weights(self, version: int) -> None:
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
        FakeEngine(bonus), prompts, made, decode, strategy, sampling=Sampling(), seed=3
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
