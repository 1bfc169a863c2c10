"""A search never takes the gold by accident, and says so where it is asked to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from posttrain import registry
from posttrain.config import Component
from posttrain.errors import ConfigError
from posttrain.evaluation.outcomes import Evaluation
from posttrain.evaluation.samples import measure_search
from posttrain.evaluation.strategy import make_strategy
from posttrain.search.base import Candidate
from posttrain.search.scorer import gold_inputs, gold_rewards
from posttrain.search.strategy import Strategy, strategy
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


@pytest.mark.parametrize(
    "name", [n for n, e in registry.searches.entries().items() if "score" in e.inputs]
)
def test_a_search_with_a_score_needs_a_scorer_by_name(name: str) -> None:
    with pytest.raises(
        ConfigError, match=f"search '{name}' needs a scorer.*reward_model.*or scorer: oracle"
    ):
        made(Component(name))


@pytest.mark.parametrize(
    "name", [n for n, e in registry.searches.entries().items() if "score" not in e.inputs]
)
def test_a_scorer_beside_a_search_that_asks_for_none_is_refused(name: str) -> None:
    with pytest.raises(
        ConfigError,
        match=f"scorer: search '{name}' does not ask for a score.*best_of_n.*weighted_vote",
    ):
        made(Component(name), Component("keyword", {"words": ["a"]}))
    with pytest.raises(ConfigError, match="oracle: search .* does not ask for a score"):
        made(Component(name), oracle=True)


def test_rewards_that_read_the_gold_are_told_by_their_signature() -> None:
    assert gold_inputs("task") == ["examples", "task"] and gold_inputs("exact") == ["answer"]
    assert gold_inputs("arithmetic_steps") == ["task", "examples"]
    assert not any(
        gold_inputs(name)
        for name in ("reward_model", "implicit_reward", "judge", "length", "keyword", "tags")
    )
    assert gold_rewards([Component("length"), Component("math")]) == ["math"]


def test_columns_of_the_data_are_gold(monkeypatch: pytest.MonkeyPatch) -> None:
    def near_solution(completions, solution) -> list[float]:
        return [0.0 for _ in completions]

    def anything(completions, **columns) -> list[float]:
        return [0.0 for _ in completions]

    monkeypatch.setattr(registry.rewards, "_functions", dict(registry.rewards._functions))
    for function in (near_solution, anything):
        registry.rewards.register(function)
    assert gold_inputs("near_solution") == ["solution"] and gold_inputs("anything") == ["**kwargs"]
    with pytest.raises(ConfigError, match=r"reads solution, which a deployed system does not have"):
        made(BEST, Component("near_solution"))


def test_a_gold_reward_is_refused_unless_it_is_allowed_by_name() -> None:
    with pytest.raises(ConfigError, match="the reward 'exact' reads answer.*set oracle: true"):
        made(BEST, Component("exact"))
    strategy = made(BEST, Component("exact"), oracle=True)
    assert (
        strategy is not None and strategy.oracle and str(strategy) == "best of 4 by exact (oracle)"
    )
    with pytest.raises(ConfigError, match="oracle: the scorer 'length' reads no gold"):
        made(BEST, Component("length"), oracle=True)
    with pytest.raises(ConfigError, match="scorer: unknown reward 'orakle': did you mean 'oracle'"):
        made(BEST, Component("orakle"))
    with pytest.raises(ConfigError, match="a weight changes nothing"):
        made(BEST, Component("length", weight=2.0))
    with pytest.raises(ConfigError, match="search.num_samples: 0 must be at least 1"):
        made(Component("best_of_n", {"num_samples": 0}), Component("oracle"))
    for key, message in (
        ({"scorer": Component("length")}, "scorer: it guides"),
        ({"oracle": True}, "oracle: it guides"),
    ):
        with pytest.raises(ConfigError, match=message):
            made(None, **key)
    assert made(None) is None


def test_a_scorer_gets_the_sampled_ids() -> None:
    """Nearness of the length to 3 tokens: the sample with the token 2, of three tokens, wins
    for every problem.
    """
    found = measured(Component("length", {"target": 3}))
    assert [o.answers for o in found.outcomes] == [["2"]] * 3


def scored(scorer: Any, candidates: Sequence[Candidate], *, oracle: bool = False) -> list[float]:
    """What a scorer gives candidates of the first example of a task of two lines."""
    example = Example("1+2+3", "1+2=3\n3+3=6", "6", id="q")
    problems = Task("sum", [example], lambda text, e: float(text.endswith("6")), lambda text: text)
    chosen = strategy("best_of_n", scorer=scorer, oracle=oracle).open(problems)
    assert chosen.scorer is not None
    (numbers,) = chosen.scorer.scores([(example, candidates)], None)
    chosen.close()
    return numbers


WHOLE = Candidate((1, 2, 0), "1+2=3\n3+4=6", -3.0, True)
PART = Candidate((1, 9), "1+2=3", -1.0, True, "\n")
WRONG = Candidate((1, 9), "1+2=4\n4+2=6\n6+1=7", -1.0, False)


def test_numbers_of_steps_are_aggregated_of_parts_too() -> None:
    """The last line of a part is a step as any other, and not judged as the answer."""

    def by(aggregation: str) -> list[float]:
        scorer = {"name": "arithmetic_steps", "aggregation": aggregation}
        return scored(scorer, [WHOLE, PART, WRONG], oracle=True)

    assert by("product") == [1, 1, 0] and by("minimum") == [1, 1, 0] and by("last") == [1, 1, 1]
    assert by("mean") == pytest.approx([1, 1, 2 / 3])
    assert scored("arithmetic_steps", [PART], oracle=True) == [1]
    assert scored("arithmetic_steps", [Candidate((), "", 0.0, False)], oracle=True) == [-math.inf]
    recipe = Component("arithmetic_steps", {"aggregation": "last"})
    assert scored(recipe, [WHOLE], oracle=True) == [1]
    with pytest.raises(ConfigError, match="minimum"):
        strategy("best_of_n", scorer=replace(recipe, aggregation="minimun"), oracle=True)
    with pytest.raises(ConfigError, match="no steps"):
        strategy("best_of_n", scorer={"name": "length", "aggregation": "mean"})
    own = strategy("best_of_n", scorer={"name": "reward_model", "path": "x", "aggregation": "min"})
    assert own.scorer_component is not None and not own.oracle


def test_the_model_itself_scores() -> None:
    assert scored("logprob", [WHOLE, PART]) == [-3, -1]
    assert scored("mean_logprob", [WHOLE, PART]) == [-1, -0.5]
    with pytest.raises(ConfigError, match="has no setting 'beta'"):
        strategy("best_of_n", scorer={"name": "logprob", "beta": 1.0})


def test_several_scorers_are_one() -> None:
    def short(completions) -> list[float | None]:
        return [None if not text else -float(len(text)) for text in completions]

    both: dict[str, Any] = {"name": "ensemble", "scorers": ["logprob", short]}
    group = [WHOLE, PART, Candidate((1,), "", -1.0, False)]
    assert scored(both, group) == [-7, -3, -math.inf]
    assert scored(both | {"combine": "min"}, group) == [-11, -5, -math.inf]
    spread = both | {"combine": "uncertainty", "uncertainty_weight": 0.5}
    assert scored(spread, group) == [-7 - 0.5 * 4, -3 - 0.5 * 2, -math.inf]
    heavy = both | {"scorers": ["logprob", {"name": "mean_logprob", "weight": 3.0}]}
    assert scored(heavy, [WHOLE]) == [-3]
    chosen = strategy("best_of_n", scorer=heavy).open(task())
    assert chosen.scorer is not None and chosen.scorer.settings == {
        "combine": "mean",
        "uncertainty_weight": 1.0,
        "scorers": [{"name": "logprob"}, {"name": "mean_logprob", "weight": 3.0}],
    }
    for wrong, match in (
        ({"name": "ensemble"}, "at least two"),
        (both | {"mean": True}, "no setting 'mean'"),
        (both | {"combine": "max"}, "combine"),
    ):
        with pytest.raises(ConfigError, match=match):
            strategy("best_of_n", scorer=wrong)


def test_an_ensemble_with_gold_is_an_oracle() -> None:
    gold = {"name": "ensemble", "scorers": ["logprob", "exact"]}
    with pytest.raises(ConfigError, match="exact"):
        strategy("best_of_n", scorer=gold)
    chosen = strategy("best_of_n", scorer=gold, oracle=True)
    assert chosen.oracle and chosen.gold == ("answer",) and "oracle" in chosen.warning()
    named = strategy("best_of_n", scorer={"name": "ensemble", "scorers": ["logprob", "oracle"]})
    assert named.gold == ("task",)
