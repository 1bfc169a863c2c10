"""Sequences with scores, labels and margins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from posttrain.data.comparisons import encode_pairs
from posttrain.data.scored import encode_scores
from posttrain.errors import DataError
from posttrain.evaluation.reward_model import (
    measure,
)


def test_margins_belong_to_all_rows_or_none(tiny_tokenizer: Any) -> None:
    rows = [
        {"prompt": "Q", "chosen": f" {i}", "rejected": " x", "margin": 0.5 + i} for i in range(3)
    ]
    groups = encode_pairs(rows, tiny_tokenizer).groups
    assert [[s.values["margin"] for s in g] for g in groups] == [[0.5, 0.5], [1.5, 1.5], [2.5, 2.5]]
    for bad in (float("nan"), float("inf")):
        for encode in (encode_pairs, encode_scores):
            with pytest.raises(
                DataError, match=f"row 2: margin is {bad}; it must be a finite number"
            ):
                encode([*rows[:2], {**rows[2], "margin": bad}], tiny_tokenizer)
    with pytest.raises(DataError, match="row 1 has no margin but others have"):
        encode_pairs([rows[0], {**rows[1], "margin": None}, rows[2]], tiny_tokenizer)


def test_lengths_are_those_of_completions(tiny_tokenizer: Any) -> None:
    rows = [{"prompt": "Q: what?", "chosen": " abc", "rejected": " d"}]
    (tree,) = encode_scores(rows, tiny_tokenizer).trees
    assert [s.values["completion_length"] for s in tree] == [
        len(tiny_tokenizer(t, add_special_tokens=False)["input_ids"]) + 1 for t in (" abc", " d")
    ]
    one = [{"prompt": "Q" * 9 * i, "completion": " " + "a" * i, "label": i > 1} for i in (1, 2, 3)]
    told = [
        measure(
            "labelled",
            encode_scores(one, tiny_tokenizer).trees,
            [[np.array([float(x)])] for x in (1, 2, 3)],
        )
    ]
    assert told[0]["length_correlation"] == pytest.approx(1)
