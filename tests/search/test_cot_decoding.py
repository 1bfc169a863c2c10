"""Chain-of-thought decoding, and where an answer stands in a text."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from token_model import TokenAsk, decode, table

from posttrain.errors import ConfigError
from posttrain.search.base import Candidate
from posttrain.search.cot_decoding import answer_confidence, answer_places, cot_decoding


def number(text: str) -> str | None:
    """The last number."""
    found = re.findall(r"\d+", text)
    return found[-1] if found else None


def path(text: str, margins: list[tuple[float, float]] | None = None) -> Candidate:
    """A candidate of single-character tokens; margins: p of each token and of the next best."""
    ids = tuple(int(c) if c.isdigit() else ord(c) - 87 for c in text)
    margins = margins or [(1.0, 0.0)] * len(ids)
    logprobs = tuple(math.log(p) for p, _ in margins)
    tops = tuple(
        ((i, math.log(p)), (35, math.log(q) if q else -math.inf))
        for i, (p, q) in zip(ids, margins, strict=True)
    )
    return Candidate(ids, text, math.fsum(logprobs), True, None, logprobs, tops)


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("42", range(2)),
        ("a42", range(1, 3)),
        ("a42b", range(1, 3)),
        ("42a42bb", range(3, 5)),  # the last occurrence
        ("4a142", range(2, 5)),
        ("ab", None),
        ("", None),
    ],
)
def test_the_tokens_of_an_answer(text: str, places: range | None) -> None:
    assert answer_places(path(text), number, decode) == places


def test_the_mark_before_an_answer_is_no_part_of_it() -> None:
    def marked(text: str) -> str | None:
        found = re.search(r"x(\d+)", text)
        return found[1] if found else None

    assert answer_places(path("ax42b"), marked, decode) == range(2, 4)

    def spelled(text: str) -> str | None:  # the answer is written in another way
        return "7" if "seven" in text else None

    assert answer_places(path("aseven"), spelled, decode) == range(1, 6)

    def whole(text: str) -> str | None:  # read from the beginning of the text
        return "yes" if text.startswith("ab") else None

    assert answer_places(path("abc"), whole, decode) == range(2)


def test_tokens_of_several_characters() -> None:
    pieces = {1: "so ", 2: "4", 3: "2.", 4: " ok"}

    def spelled(ids: Any) -> str:
        return "".join(pieces[i] for i in ids)

    sample = Candidate((1, 2, 3, 4), "so 42. ok", 0.0, True)
    assert answer_places(sample, number, spelled) == range(1, 3)


def test_the_confidence_is_that_of_the_answers_own_tokens() -> None:
    """The scores of the next tokens (an off-by-one), or of all tokens, would give other numbers."""
    margins = [(0.9, 0.05), (0.6, 0.3), (0.8, 0.1), (0.99, 0.0)]
    sample = path("a42b", margins)
    assert answer_confidence(sample, number, decode) == pytest.approx((0.3 + 0.7) / 2)
    shifted = ((0.8 - 0.1) + 0.99) / 2
    everywhere = (0.85 + 0.3 + 0.7 + 0.99) / 4
    assert answer_confidence(sample, number, decode) not in (
        pytest.approx(shifted),
        pytest.approx(everywhere),
    )
    assert answer_confidence(path("ab"), number, decode) == -math.inf
    bare = Candidate((4,), "4", -1.0, True, None, (-1.0,))
    with pytest.raises(ConfigError, match="num_top_logprobs"):
        answer_confidence(bare, number, decode)


# The likeliest first token answers at once and unsurely; "a" thinks and is sure of 7; "b" is a
# little sure of 5.
ROWS = {
    "": {"5": 0.5, "a": 0.3, "b": 0.2},
    "5": {".": 1.0},
    "a": {"7": 0.95, "5": 0.05},
    "b": {"5": 0.8, "7": 0.2},
}


def test_the_surest_branch_is_chosen_and_not_the_likeliest(search: Any) -> None:
    ask = TokenAsk(table(ROWS, {".": 1.0}))
    s = search(cot_decoding((50,), ask, number, decode, num_branches=3))
    assert [c.text for c in s.candidates] == ["5", "a7", "b5"] and s.answer == "7"
    assert [c.score for c in s.candidates] == pytest.approx([0.5 - 0.3, 0.9, 0.6])
    assert s.notes == {"num_answered": 3.0}
    # One token shows the branches; their first tokens are not sampled again.
    assert ask.budget.num_tokens == 1 + 1 + 2 + 2
    assert [(len(context), count) for context, _, count in ask.calls] == [(1, 3), *[(2, 2)] * 3]


def test_answers_of_several_branches_add_up(search: Any) -> None:
    rows = ROWS | {"5": {".": 1.0}, "": {"5": 0.7, "a": 0.2, "b": 0.1}}
    ask = TokenAsk(table(rows, {".": 1.0}))
    s = search(cot_decoding((50,), ask, number, decode, num_branches=3, aggregate=True))
    assert s.votes == pytest.approx({"5": 0.5 + 0.6, "7": 0.9}) and s.answer == "5"


def test_a_first_token_that_is_not_the_likeliest_has_a_negative_margin(search: Any) -> None:
    rows = {"": {"5": 0.6, "7": 0.4}}
    s = search(cot_decoding((50,), TokenAsk(table(rows, {".": 1.0})), number, decode))
    assert [c.score for c in s.candidates] == pytest.approx([0.2, -0.2]) and s.answer == "5"


def test_a_stop_string_that_begins_in_the_first_token(search: Any) -> None:
    ask = TokenAsk(table({"": {"a": 1.0}, "a": {"7": 1.0}}, {"b": 1.0}), stop=("a7",))
    s = search(cot_decoding((50,), ask, number, decode, num_branches=2))
    assert [(c.ids, c.text, c.stop_string) for c in s.candidates] == [((10, 7), "", "a7")]


@pytest.mark.parametrize("budget", range(8))
@pytest.mark.parametrize("aggregate", [False, True])
def test_a_budget_ends_it_with_a_selection(search: Any, budget: int, aggregate: bool) -> None:
    ask = TokenAsk(table(ROWS, {".": 1.0}), budget=budget)
    s = search(cot_decoding((50,), ask, number, decode, num_branches=3, aggregate=aggregate))
    assert ask.budget.num_tokens <= budget and s.candidates


def test_refuses_no_branch(search: Any) -> None:
    with pytest.raises(ConfigError, match="num_branches"):
        search(cot_decoding((50,), TokenAsk(table(ROWS, {})), str, decode, num_branches=0))
