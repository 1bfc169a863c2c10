"""Texts as sequences that a classifier reads."""

from __future__ import annotations

from typing import Any

import pytest

from posttrain.data import labelled_texts as module
from posttrain.errors import DataError


class Letters:
    bos_token_id: int | None = 1
    eos_token_id: int | None = 2

    def __call__(self, text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        assert not add_special_tokens
        return {"input_ids": [ord(c) for c in text]}


def test_the_pooled_tokens_are_targets() -> None:
    mean, cut = module.text_sequence("ab", Letters(), "mean", 10)
    assert mean.ids.tolist() == [1, 97, 98, 2] and not cut
    assert mean.loss_mask.tolist() == [False, True, True, True]
    last, _ = module.text_sequence("ab", Letters(), "last", 10)
    assert last.loss_mask.tolist() == [False, False, False, True]


def test_a_long_text_keeps_its_start_and_its_end() -> None:
    sequence, cut = module.text_sequence("abcdef", Letters(), "last", 4)
    assert cut and sequence.ids.tolist() == [1, 97, 98, 2]


def test_a_text_of_one_token_has_a_target() -> None:
    class Bare(Letters):
        bos_token_id = None
        eos_token_id = None

    sequence, _ = module.text_sequence("a", Bare(), "mean", 4)
    assert sequence.ids.tolist() == [97, 97] and sequence.loss_mask.sum() == 1


def test_rows() -> None:
    rows = [{"text": "a", "label": 1}, {"text": "b", "label": 0}]
    assert module.labels_of(rows) == ("0", "1")
    sequences, cut = module.labelled_sequences(rows, Letters(), ("0", "1"), "mean", 8)
    assert [s.values["class_index"] for s in sequences] == [1.0, 0.0] and cut == 0


@pytest.mark.parametrize(
    "row", [{"label": "0"}, {"text": " ", "label": "0"}, {"text": "a"}, {"text": "a", "label": "7"}]
)
def test_rows_that_are_refused(row: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        module.labelled_sequences([row], Letters(), ("0", "1"), "mean", 8)


def test_a_text_without_a_token_is_refused() -> None:
    with pytest.raises(DataError):
        module.text_sequence("", Letters(), "mean", 8)
