"""Texts with a class each, as sequences that a classifier reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from posttrain.data.tree import TokenSequence
from posttrain.errors import DataError

COLUMNS = ("text", "label")


def text_sequence(
    text: str, tokenizer: Any, pooling: Literal["mean", "last"], max_length: int, row: str = ""
) -> tuple[TokenSequence, bool]:
    """A text between BOS and EOS, where the tokenizer has them, and whether it was cut.

    Its targets are the tokens that are pooled: all but the first, or the last alone.

    Raises:
        DataError: the text has no token.
    """
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    if not ids:
        raise DataError(f"row {row}: the text {text!r} has no token; leave the row out")
    room = max(max_length - (eos is not None), 2)
    whole = [*([] if bos is None else [bos]), *ids]
    cut = len(whole) > room
    whole = whole[:room] + ([] if eos is None else [eos])
    if len(whole) == 1:  # the first token is no target
        whole = whole * 2
    mask = np.zeros(len(whole), dtype=bool)
    mask[-1 if pooling == "last" else 1 :] = True
    return TokenSequence(np.array(whole), mask, row=row), cut


def texts_of(rows: Sequence[Mapping[str, Any]], key: str = "data") -> list[str]:
    """The texts of rows.

    Raises:
        DataError: a row has no text.
    """
    for number, row in enumerate(rows, 1):
        if not isinstance(row.get("text"), str) or not row["text"].strip():
            raise DataError(
                f"{key}: row {number} has no text ({sorted(row)}); a classifier reads rows of text "
                "and label. Rename columns with data.columns"
            )
    return [row["text"] for row in rows]


def labels_of(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The classes that rows have, sorted."""
    return tuple(sorted({str(row["label"]) for row in rows if row.get("label") is not None}))


def labelled_sequences(
    rows: Sequence[Mapping[str, Any]],
    tokenizer: Any,
    labels: Sequence[str],
    pooling: Literal["mean", "last"],
    max_length: int,
    key: str = "data",
) -> tuple[list[TokenSequence], int]:
    """Rows of text and label as sequences with the value class_index, and how many were cut.

    Raises:
        DataError: a row lacks a text or a label, or its label is none of the classes.
    """
    places = {label: place for place, label in enumerate(labels)}
    sequences, num_cut = [], 0
    for number, (row, text) in enumerate(zip(rows, texts_of(rows, key), strict=True), 1):
        if row.get("label") is None or str(row["label"]) not in places:
            raise DataError(
                f"{key}: the label of row {number} is {row.get('label')!r}; classes are "
                f"{', '.join(labels)}"
            )
        sequence, cut = text_sequence(text, tokenizer, pooling, max_length, str(number))
        sequence.values["class_index"] = float(places[str(row["label"])])
        num_cut += cut
        sequences.append(sequence)
    return sequences, num_cut
