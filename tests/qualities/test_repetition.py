"""Repetition, on hand-worked texts."""

from __future__ import annotations

import pytest

from posttrain.qualities.repetition import (
    duplicate_lines,
    gopher_repetition,
    repetition,
    top_ngram,
)


def test_lines() -> None:
    assert duplicate_lines(["a\nb\na\n\na", "", "a"]).tolist() == [0.5, 0.0, 0.0]


def test_the_most_frequent_run() -> None:
    # "ab cd" occurs twice: 2 x 4 of 11 characters.
    assert top_ngram(["ab cd x ab cd yz"])[0] == pytest.approx(8 / 11)
    assert top_ngram(["every word is its own"])[0] == 0.0
    assert top_ngram(["a a a a a"])[0] == 1.0


def test_repeated_runs_count_each_character_once() -> None:
    text = "a b c d e f a b c d e f"
    assert repetition([text], n=5)[0] == pytest.approx(6 / 12)  # two runs, six words
    assert repetition([text], n=7)[0] == 0.0
    assert repetition(["a b"], n=5)[0] == 0.0


def test_gophers_rules() -> None:
    clean = " ".join(f"w{i}" for i in range(60))
    assert gopher_repetition([clean, "spam ham eggs " * 30]).tolist() == [0.0, 9.0]
    assert gopher_repetition(["\n".join(["spam ham eggs"] * 30)])[0] == 10.0
