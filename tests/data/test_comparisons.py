"""Rows that are compared: triples, steps, lists, margins, single completions; what is left out,
and what is refused.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from posttrain.data.comparisons import encode_labelled, encode_lists, encode_pairs
from posttrain.errors import DataError

STEP = {"prompt": "Q\n", "initial_reason_steps": "one\n", "chosen": "two\n", "rejected": "three\n"}


def text(tokenizer: Any, sequence: Any, trained: bool) -> str:
    ids = sequence.ids[sequence.loss_mask] if trained else sequence.ids[~sequence.loss_mask]
    return str(tokenizer.decode(ids, skip_special_tokens=True))


def test_a_step_is_compared_after_the_steps_before_it(tiny_tokenizer: Any) -> None:
    full = {"prompt": "Q\n", "full_chosen": "one\ntwo\nend", "full_rejected": "one\nthree\nbad"}
    for row in (STEP, full):
        encoded = encode_pairs([row], tiny_tokenizer)
        assert encoded.form.name == "step preference" and encoded.roles == ("chosen", "rejected")
        (pair,) = encoded.groups
        assert [text(tiny_tokenizer, s, True) for s in pair] == ["two\n", "three\n"]
        assert [text(tiny_tokenizer, s, False) for s in pair] == ["Q\none\n"] * 2
        # The solution goes on after a step: no end is learnt.
        assert all(s.ids[-1] != tiny_tokenizer.eos_token_id for s in pair)
    chat = encode_pairs(
        [{**STEP, "prompt": [{"role": "user", "content": "Q"}]}], tiny_tokenizer
    ).groups[0]
    assert text(tiny_tokenizer, chat[0], True) == "two\n" and text(
        tiny_tokenizer, chat[0], False
    ).endswith("one\n")
    with pytest.raises(DataError, match="must be text, the next step alone"):
        said = [{"role": "assistant", "content": "x"}]
        encode_pairs([{**STEP, "chosen": said, "rejected": said}], tiny_tokenizer)


def test_triples_have_three_roles(tiny_tokenizer: Any) -> None:
    row = {"prompt": "Q", "chosen": " good", "rejected": " bad", "reference": " best"}
    encoded = encode_pairs([row], tiny_tokenizer)
    assert encoded.roles == ("chosen", "rejected", "gold")
    assert [text(tiny_tokenizer, s, True) for s in encoded.groups[0]] == [" good", " bad", " best"]
    with pytest.raises(DataError, match="must all be text or all be messages"):
        encode_pairs(
            [{**row, "reference": [{"role": "assistant", "content": "x"}]}], tiny_tokenizer
        )


def test_lists_carry_scores_and_ranks(tiny_tokenizer: Any) -> None:
    rows = [
        {"prompt": "Q", "completions": [" a", " b", " c"], "scores": [0.1, 2, 1]},
        {"prompt": "R", "completions": [" a", " b"], "scores": [1.0, 0.0]},
    ]
    encoded = encode_lists(rows, tiny_tokenizer)
    assert [[s.values["reward"] for s in g] for g in encoded.groups] == [
        [0.1, 2.0, 1.0],
        [1.0, 0.0],
    ]
    ranked = encode_lists(
        [{"prompt": "Q", "completions": [" a", " b"], "ranks": [2, 1]}], tiny_tokenizer
    )
    assert [s.values["reward"] for s in ranked.groups[0]] == [-2.0, -1.0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"completions": ["a"], "scores": [1.0, 2.0]}, "1 completions but 2 scores"),
        (
            {"completions": ["a", "b"], "scores": [1.0, float("nan")]},
            "each must be a finite number",
        ),
        ({"completions": ["a", ""], "scores": [1.0, 2.0]}, "column 'completions' is empty"),
        ({"completions": ["a", "b"], "scores": ["x", 2.0]}, "not a listwise row"),
        (
            {"completions": ["a"], "scores": [1.0]},
            "fewer than two completions with a token, or equal scores",
        ),
        (
            {"completions": ["a", "b"], "scores": [1.0, 1.0]},
            "fewer than two completions with a token, or equal scores",
        ),
        (
            {"completions": [], "scores": []},
            "fewer than two completions with a token, or equal scores",
        ),
    ],
)
def test_bad_lists_are_refused(tiny_tokenizer: Any, row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        encode_lists([{"prompt": "Q", **row}], tiny_tokenizer)


def test_lists_with_nothing_to_compare_are_counted(tiny_tokenizer: Any) -> None:
    good = {"prompt": "Q", "completions": ["a", "b"], "scores": [0, 1]}
    tie = {"prompt": "Q", "completions": ["a", "b"], "scores": [1, 1]}
    encoded = encode_lists([good] * 19 + [tie], tiny_tokenizer)
    assert len(encoded.groups) == 19 and encoded.masked == ["19"]
    with pytest.raises(DataError, match="1 of 3 rows have after cutting fewer than two"):
        encode_lists([good, good, tie], tiny_tokenizer)
    with pytest.raises(DataError, match="lists need the columns prompt, completions and scores"):
        encode_lists([{"prompt": "a", "completion": "b"}], tiny_tokenizer)


def test_labels_from_single_rows_and_from_pairs(tiny_tokenizer: Any) -> None:
    single = [{"prompt": "Q", "completion": f" {i}", "label": i % 2 == 0} for i in range(3)]
    assert [s.values["label"] for s in encode_labelled(single, tiny_tokenizer).sequences] == [
        1.0,
        0.0,
        1.0,
    ]
    pair = encode_labelled([{"prompt": "Q", "chosen": " a", "rejected": " b"}], tiny_tokenizer)
    assert [s.values for s in pair.sequences] == [
        {"label": 1.0},
        {"label": 0.0},
    ] and not pair.groups
    with pytest.raises(DataError, match="label is 'maybe'"):
        encode_labelled([{**single[0], "label": "maybe"}], tiny_tokenizer)
    with pytest.raises(DataError, match="prompt, completion and label"):
        encode_labelled([{"prompt": "Q", "completion": " a"}], tiny_tokenizer)


def test_long_groups_are_cut_or_dropped_together(tiny_tokenizer: Any) -> None:
    rows = [{"prompt": "Q", "completions": [" a", " " + "b" * 40], "scores": [1, 0]}] * 2
    cut = encode_lists(rows, tiny_tokenizer, max_length=12, max_cut=1.0)
    assert cut.truncated == 2 and max(cut.lengths) == 12 and np.all(cut.lengths <= 12)
    with pytest.raises(DataError, match="2 of 2 rows dropped as too long"):
        encode_lists(rows, tiny_tokenizer, max_length=12, truncation="drop")
