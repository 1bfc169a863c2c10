"""How much the tokens of a row count: the column `weight`, and rationales."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from posttrain.data.encoded import Encoded
from posttrain.data.forest import TokenSequence
from posttrain.data.item import Item
from posttrain.data.store import SequenceStore
from posttrain.errors import DataError
from posttrain.types import Text


def row_weight(item: Item) -> float:
    """The column `weight` of a row, 1 where it has none.

    Raises:
        DataError: the weight is negative or no number.
    """
    weight = item.columns.get("weight")
    if weight is None:
        return 1.0
    number = isinstance(weight, int | float) and not isinstance(weight, bool)
    if not number or not 0 <= weight < math.inf:
        raise DataError(
            f"row {item.row}: weight {weight!r} says how much the row's tokens count; it must be "
            "a number, 0 or above"
        )
    return float(weight)


def refuse_row_weights(rows: Sequence[dict[str, Any]]) -> None:
    """Refuse a column `weight` in rows of whole completions, pairs and lists: no such loss reads
    it.

    Raises:
        DataError: a row has a weight other than 1.
    """
    for number, row in enumerate(rows):
        if row.get("weight") not in (None, 1):
            raise DataError(
                f"row {row.get('id', number)}: weight {row['weight']!r} says how much a row's "
                "tokens count, but losses of whole completions, pairs and lists count each row "
                "once; leave the column out, and repeat or drop rows instead"
            )


def weigh(sequence: TokenSequence, item: Item) -> None:
    """Multiply the weights of a sequence's tokens by its row's. A row of weight 0 has no trained
    token.
    """
    factor = row_weight(item)
    ones = np.ones(len(sequence.ids), dtype=np.float32)
    sequence.streams["weights"] = sequence.streams.get("weights", ones) * np.float32(factor)
    if factor == 0:
        sequence.loss_mask = np.zeros_like(sequence.loss_mask)


def fill_weights(encoded: Encoded) -> None:
    """Give weights of 1 to the sequences without weights: a stream is in all sequences or none."""
    if isinstance(encoded.sequences, SequenceStore):
        encoded.sequences.fill("weights", 1.0)
        return
    for sequence in encoded.sequences:
        sequence.streams.setdefault("weights", np.ones(len(sequence.ids), dtype=np.float32))


def with_rationale(item: Item, weight: float) -> list[Item]:
    """Distilling step by step (arXiv 2305.02301): two tasks of a row that has a rationale.

    "[label] " and the prompt lead to the completion, whose tokens count 1. "[rationale] " and the
    prompt lead to the rationale, whose tokens count `weight`. With the usual mean over tokens that
    is L_label + weight L_rationale up to a common factor, where both are sums over tokens.

    Raises:
        DataError: the row has no rationale, or no prompt to put the word before.
    """
    rationale = item.columns.get("rationale")
    if not isinstance(rationale, str) or not rationale.strip():
        raise DataError(
            f"row {item.row} has no text in the column 'rationale', which data.rationale_weight "
            "needs"
        )
    completions: dict[str, Text] = {"label": item.completion or "", "rationale": rationale}
    tasks = []
    for task, completion in completions.items():
        share = weight if task == "rationale" else 1.0
        if isinstance(item.prompt, list) and isinstance(completion, str):
            completion = [{"role": "assistant", "content": completion}]
        tasks.append(
            replace(
                item,
                prompt=_marked(item, task),
                completion=completion,
                columns={**item.columns, "weight": share * row_weight(item)},
                row=f"{item.row} {task}",
            )
        )
    return tasks


def _marked(item: Item, task: str) -> Text:
    """The prompt with the name of the task before its last message."""
    if isinstance(item.prompt, str):
        return f"[{task}] {item.prompt}"
    if item.prompt and item.prompt[-1]["role"] == "user":
        *before, last = item.prompt
        return [*before, {**last, "content": f"[{task}] {last['content']}"}]
    raise DataError(
        f"row {item.row} has no prompt, which a rationale needs; use the columns prompt and "
        "completion"
    )
