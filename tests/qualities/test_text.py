"""Rules of web text, on hand-worked texts."""

from __future__ import annotations

import numpy as np
import pytest

from posttrain.qualities.text import (
    alphabetic_share,
    bullet_share,
    characters,
    completion_words,
    ellipsis_share,
    mean_word_length,
    stop_words,
    symbol_ratio,
    tokens,
)


def test_lengths() -> None:
    assert tokens([3, 4]).tolist() == [3.0, 4.0]
    assert characters(["abc", ""]).tolist() == [3.0, 0.0]
    assert completion_words(["two words", ""]).tolist() == [2.0, 0.0]
    assert mean_word_length(["a bcd"]).tolist() == [2.0]


def test_shares() -> None:
    assert symbol_ratio(["# a b ...", "a…"]).tolist() == [0.25, 1.0]
    assert bullet_share(["* one\n- two\nthree\n\n• four"]).tolist() == [0.75]
    assert ellipsis_share(["one...\ntwo"]).tolist() == [0.5]
    assert alphabetic_share(["a 1 + 2b"]).tolist() == [0.5]
    assert stop_words(["The cat AND the dog", "cat"]).tolist() == [2.0, 0.0]


@pytest.mark.parametrize("measure", [mean_word_length, symbol_ratio, alphabetic_share])
def test_a_text_without_words_has_no_value(measure) -> None:
    assert np.isnan(measure([" \n"])).all()
