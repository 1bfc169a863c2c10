"""The reward for verifiable instructions."""

from __future__ import annotations

import pytest

from posttrain.errors import DataError
from posttrain.rewards.ifeval import followed, instructions
from posttrain.types import Example

COLUMNS = {
    "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
    "kwargs": [{}, {"relation": "at least", "num_words": 3}],
}


def test_all_or_a_share() -> None:
    examples = [Example("p", columns=COLUMNS)] * 3
    texts = ["one two three", "one, two", "one, two three"]
    assert instructions(texts, examples) == [1, 0, 0]
    assert instructions(texts, examples, partial=True) == [1, 0, 0.5]
    chat = [[{"role": "assistant", "content": "Well,\none two three"}]]
    assert instructions(chat, examples[:1]) == [0]
    assert instructions(chat, examples[:1], loose=True) == [1]


def test_rows_that_do_not_fit_are_refused() -> None:
    for columns in ({}, {**COLUMNS, "kwargs": [{}]}, {"instruction_id_list": [], "kwargs": []}):
        with pytest.raises(DataError):
            followed("a", columns)
