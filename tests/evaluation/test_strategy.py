"""A strategy and its scorer from a recipe: what is refused, and what is recorded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from posttrain import registry
from posttrain.config import Component
from posttrain.errors import ConfigError
from posttrain.evaluation.comparison import compare, unlikeness
from posttrain.evaluation.outcomes import Evaluation
from posttrain.evaluation.samples import measure_search
from posttrain.evaluation.strategy import make_strategy
from posttrain.search.strategy import Strategy
from posttrain.types import Example, Request, Sample, Sampling, Task

BEST = Component("best_of_n", {"num_samples": 4})


def task(answers: Sequence[str] = ("1", "2", "3")) -> Task:
    """Problems that all have the same prompt."""
    examples = [Example("?", None, answer, id=f"q{i}") for i, answer in enumerate(answers)]
    return Task(
        "same", examples, lambda text, e: float(text == e.answer), lambda text: text or None
    )


class Counting:
    """Sample i of a prompt is the token i."""

    weights_version = 0

    def generate(self, requests: Sequence[Request]) -> list[list[Sample]]:
        return [
            [Sample([i] * (i + 1), [0.0], [-1.0 * i], "stop") for i in range(r.n)] for r in requests
        ]

    def score(self, sequences: Any) -> Any:
        return [[] for _ in sequences]

    def sync(self, version: int) -> None:
        self.weights_version = version


class FirstId:
    """A tokenizer: the text is the first id."""

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return str(ids[0]) if ids else ""


def made(
    search: Component | None = BEST, scorer: Component | None = None, *, oracle: bool = False
) -> Strategy | None:
    return make_strategy(search, scorer, oracle=oracle, task=task())


def measured(scorer: Component, search: Component = BEST, *, oracle: bool = False) -> Evaluation:
    problems = task()
    strategy = make_strategy(search, scorer, oracle=oracle, task=problems)
    assert strategy is not None
    prompts = [(e, (7,)) for e in problems.examples]
    return measure_search(
        Counting(),
        prompts,
        problems,
        FirstId(),
        strategy,
        sampling=Sampling(),
        seed=0,
    )


def test_words_of_a_strategy() -> None:
    assert str(made(Component("majority_vote"))) == "majority vote of 8"
    assert str(made(BEST, Component("oracle"))) == "best of 4 (oracle)"
    assert (
        str(made(Component("weighted_vote", {"num_samples": 2}), Component("length")))
        == "weighted vote of 2 by length"
    )
    assert (
        str(made(Component("value_beam"))) == "value beam of 4"
        and str(made(Component("sample"))) == "sample"
    )
    oracle = made(BEST, Component("oracle"))
    assert oracle is not None
    assert oracle.warning() == (
        "oracle: the task's own verdict chose among 4 samples; no deployed system can reach this"
    )


def test_problems_with_one_prompt_keep_their_own_answers() -> None:
    """The oracle finds each problem's own answer, though all three problems ask the same."""
    found = measured(Component("oracle"))
    assert [o.answers for o in found.outcomes] == [
        ["1"],
        ["2"],
        ["3"],
    ] and found.accuracy().estimate == 1.0


def test_what_chose_is_recorded() -> None:
    found = measured(Component("oracle"))
    again = Evaluation.from_json(found.to_json())
    for evaluation in (found, again):
        assert evaluation.search == "best_of_n" and evaluation.search_settings == {"num_samples": 4}
        assert evaluation.scorer == {"name": "oracle"} and evaluation.oracle is True
        assert evaluation.strategy == "best of 4 (oracle)"
    other = measured(Component("length", {"target": 3}))
    assert other.scorer == {"name": "length", "target": 3} and other.oracle is False


def test_a_strategy_about_many_prompts_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def by_prompts(prompts, ask) -> list[Any]:
        return [await ask(prompt, 2) for prompt in prompts]

    monkeypatch.setattr(registry.searches, "_functions", dict(registry.searches._functions))
    with pytest.raises(ConfigError, match="prompts.*did you mean 'prompt'"):
        registry.searches.register(by_prompts)


def test_what_a_strategy_returns_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    async def wrong(prompt, ask) -> Any:
        return await ask(prompt, 2)

    monkeypatch.setattr(registry.searches, "_functions", dict(registry.searches._functions))
    registry.searches.register(wrong)
    problems = task()
    strategy = make_strategy(Component("wrong"), None, oracle=False, task=problems)
    assert strategy is not None
    prompts = [(e, (7,)) for e in problems.examples]
    with pytest.raises(ConfigError, match="returned list"):
        measure_search(
            Counting(), prompts, problems, FirstId(), strategy, sampling=Sampling(), seed=0
        )


def test_a_search_that_fails_is_a_wrong_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(prompt, ask, extract) -> Any:
        return 1 / 0

    monkeypatch.setattr(registry.searches, "_functions", dict(registry.searches._functions))
    registry.searches.register(broken)
    problems = task()
    strategy = make_strategy(Component("broken"), None, oracle=False, task=problems)
    assert strategy is not None
    prompts = [(e, (7,)) for e in problems.examples]
    result = measure_search(
        Counting(), prompts, problems, FirstId(), strategy, sampling=Sampling(), seed=0
    )
    assert result.errors == 3 and result.accuracy().estimate == 0.0
    assert "ZeroDivisionError" in result.failures[0]
    assert Evaluation.from_json(result.to_json()).failures == result.failures


def test_a_comparison_names_what_is_unlike() -> None:
    oracle, other = (
        measured(Component("oracle")),
        measured(Component("length"), Component("best_of_n", {"num_samples": 2})),
    )
    assert compare(oracle, other).difference.n == 3
    lines = unlikeness(oracle, other)
    assert lines[0] == "search: best of 4 (oracle) and best of 2 by length"
    assert "search.num_samples: 4 and 2" in lines and "scorer.name: oracle and length" in lines
    assert lines[-1].startswith("the first is an oracle: the gold chose its answers")
    assert unlikeness(other, other) == []
