"""Searches as values: by name, by function, and through their public form."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from posttrain.errors import ConfigError
from posttrain.search.base import Candidate, Selection, select
from posttrain.search.strategy import Strategy, bound, strategy
from posttrain.types import Example, Task

TASK = Task("t", [Example("p", "1", "1", id="e")], lambda t, e: float(t == "1"), lambda t: t)


async def shortest(prompt, ask, extract, *, num_samples: int = 4) -> Selection:
    """The shortest of several samples."""
    group = await ask(prompt, num_samples)
    return select(group, min(range(len(group)), key=lambda i: len(group[i].text)), extract)


def write(context: Any, n: int) -> list[Candidate]:
    return [Candidate((1,), "a" * (3 - i), 0.0, True) for i in range(n)]


def test_a_registered_search_by_name() -> None:
    value = strategy("majority_vote", num_samples=4)
    assert (value.name, value.settings) == ("majority_vote", {"num_samples": 4})
    assert strategy("majority_vote").settings == {"num_samples": 8}
    assert strategy(value, num_samples=2).settings == {"num_samples": 2}
    with pytest.raises(ConfigError, match="samples"):
        strategy("majority_vote", samples=4)
    with pytest.raises(ConfigError, match="search.num_samples"):
        strategy("majority_vote", num_samples=0)
    with pytest.raises(ConfigError, match="majority_vot"):
        strategy("majority_vot")


def test_zero_is_a_number_where_a_search_says_so() -> None:
    assert strategy("budget_forcing", num_waits=0).settings["num_waits"] == 0
    for name, value in (("num_waits", -1), ("num_answer_tokens", 0)):
        with pytest.raises(ConfigError, match=f"search.{name}"):
            strategy("budget_forcing", **{name: value})


def test_a_function_is_a_search(scripted, search) -> None:
    value = strategy(shortest, num_samples=2)
    assert str(value) == "shortest of 2"
    inputs = {"prompt": (1,), "ask": scripted(write), "extract": str}
    assert search(value.run(inputs)).answer == "aa"
    with pytest.raises(ConfigError, match="async def"):
        search(strategy(lambda prompt, ask: select(write(prompt, 1), 0, str)).run(inputs))
    with pytest.raises(ConfigError, match="num"):
        strategy(shortest, num=2)


def test_the_public_form_makes_a_value_or_searches(scripted, search) -> None:
    vote = bound("majority_vote")
    assert vote(num_samples=8) == strategy("majority_vote", num_samples=8)
    assert vote.__name__ == "majority_vote" and "arXiv" in str(vote.__doc__)
    selection = search(vote((1,), scripted(write), str, num_samples=2))
    assert selection.num_tokens == 2
    own = bound(shortest)
    assert isinstance(own(num_samples=3), Strategy)
    assert search(own((1,), scripted(write), str, num_samples=3)).answer == "a"
    assert list(inspect.signature(own).parameters) == [
        "prompt",
        "ask",
        "extract",
        "num_samples",
    ]
    assert "scorer" in inspect.signature(bound("best_of_n")).parameters


def test_a_scorer_is_set_with_the_search_or_later() -> None:
    early = bound("best_of_n")(num_samples=2, scorer="length")
    late = strategy("best_of_n", num_samples=2).with_scorer("length")
    assert early == late and str(early) == "best of 2 by length" and not early.oracle
    with pytest.raises(ConfigError, match="needs a scorer"):
        strategy("best_of_n").open(TASK)
    with pytest.raises(ConfigError, match="exact"):
        strategy("best_of_n", scorer="exact")
    gold = strategy("best_of_n", scorer="exact", oracle=True)
    assert gold.oracle and "reads answer" in gold.warning()
    opened = gold.open(TASK)
    assert opened.scorer is not None and opened.scorer.gold == ("answer",)
    opened.close()
