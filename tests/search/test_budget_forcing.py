"""Budget forcing, on a model that is written down."""

from __future__ import annotations

import math
from typing import Any

import pytest
from token_model import END, TokenAsk, decode, encode, table

import posttrain as pt
from posttrain.engines.torch import TorchEngine
from posttrain.errors import ConfigError
from posttrain.search.base import Candidate, Selection
from posttrain.search.budget_forcing import budget_forcing, put, without_end

# Thinks "a", ends with "z", answers 7; behind a wait "w" it thinks "b" and answers 8.
ROWS = {
    "": {"a": 1.0},
    "a": {"z": 1.0},
    "az": {"7": 1.0},
    "aw": {"b": 1.0},
    "awb": {"z": 1.0},
    "awbz": {"8": 1.0},
    "awbw": {"c": 1.0},
    "awbwc": {"z": 1.0},
    "awbwcz": {"9": 1.0},
}
MODEL = table(ROWS, {".": 1.0})
TAGS: dict[str, Any] = {"think_end": "z", "wait": "w"}


def forced(search: Any, ask: TokenAsk, **settings: Any) -> Selection:
    found: Selection = search(budget_forcing((50,), ask, str, decode, encode, **(TAGS | settings)))
    return found


def test_an_end_is_replaced_by_a_wait(search: Any) -> None:
    for waits, text in ((0, "az7"), (1, "awbz8"), (2, "awbwcz9")):
        s = forced(search, TokenAsk(MODEL, max_tokens=20), num_waits=waits)
        chosen = s.candidates[0]
        assert (s.text, chosen.ended, s.notes["num_waits"]) == (text, True, float(waits))
        assert s.notes["num_forced"] == 0.0
        assert chosen.ids == (*encode(text), END) and len(chosen.logprobs) == len(chosen.ids)


def test_what_was_put_there_is_not_sampled_and_has_log_prob_0(search: Any) -> None:
    ask = TokenAsk(table(ROWS | {"": {"a": 0.5, "b": 0.5}}, {".": 1.0}), max_tokens=20)
    s = forced(search, ask, answer_cue="x")
    # a z | w is put in place of z | b z | x is put | the end
    assert s.text == "awbzx" and ask.budget.num_tokens == 2 + 2 + 1
    assert s.candidates[0].logprob == pytest.approx(math.log(0.5))
    assert s.candidates[0].given == (False, True, False, False, True, False)


def test_a_shortest_thinking(search: Any) -> None:
    """It waits only below the length, as often as is allowed."""
    for shortest, text in ((0, "az7"), (2, "az7"), (3, "awbz8"), (5, "awbwcz9"), (99, "awbwcz9")):
        ask = TokenAsk(MODEL, max_tokens=20)
        s = forced(search, ask, min_thinking_tokens=shortest, num_waits=2)
        assert s.text == text


def test_a_longest_thinking_gets_an_end_and_a_cue(search: Any) -> None:
    rows = {"aaazx": {"7": 1.0}, "aaazx7": {".": 1.0}}
    ask = TokenAsk(table(rows, {"a": 1.0}), max_tokens=20)
    s = forced(search, ask, max_thinking_tokens=3, answer_cue="x")
    assert s.text == "aaazx7" and s.candidates[0].ended
    assert s.notes == {"num_waits": 0.0, "num_forced": 1.0, "num_thinking_tokens": 3.0}


def test_tokens_are_kept_for_the_answer(search: Any) -> None:
    """A forced stop without an answer is what users of others complain of."""
    endless = table({}, {"a": 1.0})
    for max_tokens in range(3, 15):
        s = forced(search, TokenAsk(endless, max_tokens=max_tokens), num_answer_tokens=4)
        kept = min(4, (max_tokens - 1) // 2)
        assert s.text == "a" * (max_tokens - 1 - kept) + "z" + "a" * kept
        assert len(s.candidates[0].ids) == max_tokens
    # Within a budget of sampled tokens too.
    s = forced(search, TokenAsk(endless, max_tokens=100, budget=10), num_answer_tokens=4)
    assert s.text == "aaaaaazaaaa"


@pytest.mark.parametrize("budget", range(12))
@pytest.mark.parametrize("max_tokens", [1, 2, 5, 30])
def test_any_budget_gives_a_selection(search: Any, budget: int, max_tokens: int) -> None:
    for model in (MODEL, table({}, {"a": 1.0}), table({}, {".": 1.0}), table({}, {"z": 1.0})):
        ask = TokenAsk(model, budget=budget, max_tokens=max_tokens)
        s = forced(search, ask, num_waits=3)
        assert ask.budget.num_tokens <= budget
        assert len(s.candidates[0].ids) <= max_tokens


def test_an_end_token_ends_the_thinking_too(search: Any) -> None:
    rows = {"": {"a": 1.0}, "a": {".": 1.0}, "aw": {".": 1.0}, "awz": {"7": 1.0}}
    s = forced(search, TokenAsk(table(rows, {".": 1.0}), max_tokens=20))
    assert s.text == "awz7" and END not in s.candidates[0].ids[:-1]


def test_without_a_wait_it_samples_in_one_text(search: Any) -> None:
    """The same tokens as plain decoding, where the model ends its thinking itself."""
    plain = search(TokenAsk(MODEL)((50,)))[0]
    s = forced(search, TokenAsk(MODEL), min_thinking_tokens=0)
    assert s.candidates[0].ids == plain.ids and s.candidates[0].logprobs == plain.logprobs


def test_a_stop_string_inside_a_token_leaves_the_text_before_it() -> None:
    pieces = {1: "ab", 2: "c#", 3: "#d", 9: "c"}

    def spelled(ids: Any) -> str:
        return "".join(pieces[i] for i in ids)

    def ids_of(text: str) -> tuple[int, ...]:
        return {"c": (9,)}[text]

    path = Candidate((1, 2, 3), "abc", -3.0, True, "##", (-1.0, -1.0, -1.0))
    cut = without_end(path, spelled, ids_of)
    assert (cut.ids, cut.logprobs, cut.ended) == ((1, 9), (-1.0, 0.0), False)
    closed = Candidate((1, 9), "abc", -2.0, True, None, (-1.0, -1.0))
    assert without_end(closed, spelled, ids_of).ids == (1,)
    assert put(closed, (2,)).ids == (1, 9, 2) and without_end(cut, spelled, ids_of) is cut


def test_refuses(search: Any) -> None:
    for settings in ({"think_end": ""}, {"wait": ""}, {"num_answer_tokens": 0}):
        with pytest.raises(ConfigError):
            forced(search, TokenAsk(MODEL), **settings)


def test_on_the_embedded_model() -> None:
    """Its answers stand behind "####"; the first call is the evaluation's own sample."""
    model = pt.load("embedded")
    engine = TorchEngine(model)
    prompts = ["Q: 3+4\nA:", "Q: 12-5+2\nA:", "Q: 6*7\nA:"]
    settings: Any = {"sampling": pt.Sampling(max_tokens=60), "engine": engine}
    found = pt.run_search(model, prompts, {"name": "budget_forcing"}, **settings)
    plain = pt.run_search(model, prompts, "sample", sampling=pt.Sampling(max_tokens=60))
    spent = 0
    for s, p in zip(found, plain, strict=True):
        assert isinstance(s, Selection) and isinstance(p, Selection)
        begun = s.text.partition("Wait")[0]
        assert p.text.startswith(begun.rstrip("#")) and "####" in s.text
        assert s.notes["num_waits"] == float("Wait" in s.text)
        spent += s.num_tokens
    assert spent <= engine.stats.generated_tokens
