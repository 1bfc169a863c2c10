"""Beam search, against numbers worked by hand and against all texts."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from token_model import END, TokenAsk, decode, table

from posttrain.errors import ConfigError
from posttrain.search.base import Ids
from posttrain.search.token_beam import diverse_beam, token_beam

# Greedy writes "ab" (.6 * .4 = .24 before its end); "c" leads to .4 * .9.
ROWS = {
    "": {"a": 0.6, "c": 0.4},
    "a": {"b": 0.4, "c": 0.35, "d": 0.25},
    "c": {"d": 0.9, "e": 0.1},
}
MODEL = table(ROWS, {".": 1.0})


def test_two_beams_find_what_greedy_decoding_misses(search: Any) -> None:
    ask = TokenAsk(MODEL)
    s = search(token_beam((50,), ask, str, decode, num_beams=2, length_penalty=0.0))
    assert [c.text for c in s.candidates] == ["cd", "ab"] and s.index == 0
    assert [c.logprob for c in s.candidates] == pytest.approx([math.log(0.36), math.log(0.24)])
    assert s.candidates[0].ended and s.notes == {"num_ended": 2.0}
    # One token for the first step, then one for each of two beams.
    assert ask.budget.num_tokens == 1 + 2 + 2
    assert [count for _, _, count in ask.calls] == [2] * 5
    one = search(token_beam((50,), TokenAsk(MODEL), str, decode, num_beams=1))
    assert one.text == "ab"


def test_the_length_penalty(search: Any) -> None:
    # "." has log .5 over 1 token; "ab." has log .36 over 3 tokens.
    rows = {"": {".": 0.5, "a": 0.45, "c": 0.05}, "a": {"b": 0.8, "c": 0.2}}
    for penalty, text in ((0.0, ""), (1.0, "ab")):
        ask = TokenAsk(table(rows, {".": 1.0}))
        s = search(token_beam((50,), ask, str, decode, num_beams=3, length_penalty=penalty))
        assert s.text == text


def everything(max_tokens: int) -> dict[Ids, float]:
    """log p of every ended text of at most so many tokens."""
    texts: dict[Ids, float] = {}
    for count in range(1, max_tokens + 1):
        for body in itertools.product((10, 11, 12), repeat=count - 1):
            ids = (*body, END)
            steps = [random_model((50, *ids[:t]))[ids[t]] for t in range(count)]
            texts[ids] = math.fsum(map(math.log, steps))
    return texts


def random_model(context: Ids) -> dict[int, float]:
    """Four ids with probabilities that depend on the whole context."""
    weights = [1 + (hash((*context, i)) % 97) for i in (END, 10, 11, 12)]
    return {i: w / sum(weights) for i, w in zip((END, 10, 11, 12), weights, strict=True)}


@pytest.mark.parametrize("penalty", [0.0, 0.7, 1.0, 2.0])
def test_a_wide_beam_finds_the_best_of_all(search: Any, penalty: float) -> None:
    texts = everything(4)
    best = max(texts, key=lambda ids: texts[ids] / len(ids) ** penalty)
    ask = TokenAsk(random_model, max_tokens=4)
    s = search(token_beam((50,), ask, str, decode, num_beams=200, length_penalty=penalty))
    assert s.candidates[s.index].ids == best
    assert s.candidates[s.index].logprob == pytest.approx(texts[best])


def test_an_ended_candidate_is_chosen_before_a_cut_one(search: Any) -> None:
    rows = {"": {"a": 0.7, ".": 0.3}}
    ask = TokenAsk(table(rows, {"a": 1.0}), max_tokens=3)
    s = search(token_beam((50,), ask, str, decode, num_beams=2))
    assert s.text == "" and [(c.text, c.ended) for c in s.candidates] == [
        ("", True),
        ("aaa", False),
    ]
    ask = TokenAsk(table({}, {"a": 0.6, "b": 0.4}), max_tokens=3)  # nothing ends
    assert search(token_beam((50,), ask, str, decode, num_beams=2)).text == "aaa"


def test_stop_strings_over_tokens_end_beams(search: Any) -> None:
    ask = TokenAsk(MODEL, stop=("cd",))
    s = search(token_beam((50,), ask, str, decode, num_beams=2, length_penalty=0.0))
    chosen = s.candidates[s.index]
    assert (chosen.ids, chosen.text, chosen.stop_string) == ((12, 13), "", "cd")


@pytest.mark.parametrize("budget", range(9))
def test_a_budget_ends_it_with_a_selection(search: Any, budget: int) -> None:
    for program in (token_beam, diverse_beam):
        ask = TokenAsk(MODEL, budget=budget)
        s = search(program((50,), ask, lambda text: None, decode, num_beams=4))
        assert ask.budget.num_tokens <= budget and s.candidates


def test_groups_keep_apart_by_hand(search: Any) -> None:
    model = table({"": {"a": 0.6, "b": 0.3, "c": 0.1}}, {".": 1.0})

    def texts(weight: float) -> list[str]:
        ask = TokenAsk(model)
        program = diverse_beam(
            (50,), ask, str, decode, num_beams=2, num_groups=2, diversity_weight=weight
        )
        return [c.text for c in search(program).candidates]

    # The second group leaves "a" once log .6 - weight < log .3, that is weight > log 2 = .69.
    assert texts(0.5) == ["a", "a"] and texts(0.8) == ["a", "b"]
    # A penalty is not carried on: the log-probs are the model's.
    s = search(diverse_beam((50,), TokenAsk(model), str, decode, num_beams=2, diversity_weight=9.0))
    assert [c.logprob for c in s.candidates] == pytest.approx([math.log(0.6), math.log(0.3)])
    assert s.text == "a"


def test_one_group_is_beam_search(search: Any) -> None:
    for beams in (1, 2, 3):
        args: Any = ((50,), TokenAsk(random_model, max_tokens=5), str, decode)
        plain = search(token_beam(*args, num_beams=beams))
        grouped = search(diverse_beam(*args, num_beams=beams, num_groups=1, diversity_weight=3.0))
        assert [c.ids for c in plain.candidates] == [c.ids for c in grouped.candidates]


def test_refuses(search: Any) -> None:
    args: Any = ((50,), TokenAsk(MODEL), str, decode)
    with pytest.raises(ConfigError, match="num_beams"):
        search(token_beam(*args, num_beams=0))
    with pytest.raises(ConfigError, match="groups"):
        search(diverse_beam(*args, num_beams=4, num_groups=3))
    with pytest.raises(ConfigError, match="num_groups"):
        search(diverse_beam(*args, num_beams=4, num_groups=0))
