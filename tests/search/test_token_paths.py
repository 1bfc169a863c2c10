"""Texts that grow by a token, and where they end."""

from __future__ import annotations

import math
from typing import Any

import pytest
from token_model import END, TokenAsk, decode, table

from posttrain.errors import ConfigError
from posttrain.search.base import Candidate
from posttrain.search.token_paths import cut_at_stop, next_tokens, with_text, with_token

START = Candidate((), "", 0.0, False, context_ids=(50,))
MODEL = table({"": {"a": 0.5, "b": 0.3, ".": 0.2}}, {".": 1.0})


def test_the_distribution_of_the_next_token_costs_one(search: Any) -> None:
    ask = TokenAsk(MODEL, budget=1)
    top = search(next_tokens(ask, (50,), 2))
    assert top == ((10, math.log(0.5)), (11, math.log(0.3)))
    assert ask.calls == [((50,), 1, 2)] and ask.budget.num_tokens == 1
    assert search(next_tokens(ask, (50,), 2)) == ()  # the budget is spent


def test_refuses_no_count_and_an_engine_without_distributions(scripted: Any, search: Any) -> None:
    with pytest.raises(ConfigError):
        search(next_tokens(TokenAsk(MODEL), (50,), 0))
    silent = scripted(lambda context, n: [Candidate((10,), "a", -1.0, False)])
    with pytest.raises(ConfigError, match="distribution"):
        search(next_tokens(silent, (50,), 2))


def test_a_path_ends_at_an_id_or_at_a_string_over_several_tokens() -> None:
    ask: Any = TokenAsk(MODEL, stop=("bc",))
    path = START
    for token in (10, 11):
        path = with_token(path, token, ((token, -1.0),), -1.0, ask, decode)
        assert not path.ended and path.text == ""
    ended = with_text(with_token(path, 12, (), -0.5, ask, decode), decode)
    assert (ended.ended, ended.stop_string, ended.text) == (True, "bc", "a")
    assert (ended.logprob, ended.logprobs, len(ended.top_logprobs)) == (-2.5, (-1.0, -1.0, -0.5), 3)
    closed = with_text(with_token(path, END, (), -0.5, ask, decode), decode)
    assert (closed.ended, closed.stop_string, closed.text) == (True, None, "ab")


def test_a_text_is_cut_at_the_first_stop_string() -> None:
    logprobs = (-1.0, -2.0, -4.0, -8.0)
    path = Candidate((10, 11, 12, 13), "abcd", -15.0, False, None, logprobs, ((), (), (), ()))
    cut = cut_at_stop(path, ("cd", "bc"), decode)
    assert (cut.ids, cut.text, cut.stop_string) == ((10, 11, 12), "a", "bc")
    assert (cut.logprob, cut.ended, len(cut.top_logprobs)) == (-7.0, True, 3)
    assert cut_at_stop(path, ("x",), decode) is path
