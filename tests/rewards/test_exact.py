"""Answers in texts, and when two of them are equal."""

from __future__ import annotations

from fractions import Fraction

import pytest

from posttrain.rewards.exact import (
    canonical,
    exact,
    extract_answer,
    last_boxed,
    last_tagged,
    parse_number,
    same_answer,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,000", 1000),
        ("$5", 5),
        ("12%", 12),
        ("3/4", Fraction(3, 4)),
        ("-0.50", Fraction(-1, 2)),
        ("7.", 7),
        ("1e3", 1000),
        ("\u22123", -3),
        (".5", Fraction(1, 2)),
        ("1/0", None),
        ("x", None),
        ("", None),
        ("1,00", None),
        ("9" * 500, None),
    ],
)
def test_numbers(text: str, value: object) -> None:
    assert parse_number(text) == value


def test_answers() -> None:
    text = r"First 3, then \boxed{\frac{1}{2}} and <answer> x </answer> #### 1,234.0"
    assert extract_answer(text, "last_number") == "1,234.0"
    assert extract_answer(text, "hash") == "1,234.0"
    assert extract_answer(text, "boxed") == r"\frac{1}{2}"
    assert extract_answer(text, "tag") == "x"
    assert extract_answer("  all ", "whole") == "all"
    assert [extract_answer("none", e) for e in ("last_number", "hash", "boxed", "tag")] == [
        None
    ] * 4  # type: ignore[arg-type]
    assert (
        last_boxed(r"\boxed{a{b}c} \boxed{open") is None and last_boxed(r"\boxed{a{b}c}") == "a{b}c"
    )
    assert (
        canonical("1,000") == canonical("1000.0") == "1000"
        and canonical(" Blue  sky ") == "blue sky"
    )
    assert (
        same_answer("0.5", "1/2") and not same_answer(None, "1") and same_answer("Paris", "paris")
    )


def test_exact() -> None:
    assert exact(["it is 7", "7 or 8", ""], ["7", 7, "7"]) == [1, 0, 0]
    chat = [[{"role": "assistant", "content": "so 4"}]]
    assert exact(chat, ["4"]) == [1]


def test_the_last_tag_is_that_of_a_search_from_the_left() -> None:
    assert last_tagged("<answer>a</answer> <answer>b</answer>") == "b"
    assert last_tagged("<answer>a<answer>b</answer>") == "a<answer>b"
    assert last_tagged("<answer>a</answer><answer>b") == "a"
    assert last_tagged("</answer>a<answer>") is None and last_tagged("") is None


def test_a_unicode_minus_belongs_to_its_number() -> None:
    assert exact(["it is \u22125", "it is \u22125."], ["-5", "5"]) == [1.0, 0.0]
    assert parse_number("\u22125.5") == -5.5 and canonical("...") == "..."
    assert extract_answer("so \u22125", "last_number") == "\u22125"
