"""Rows whose completions are compared or judged as wholes: pairs, triples, lists, labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from posttrain.data.dialogues import with_shared_prompt
from posttrain.data.encode import encode_items, encode_rows, usable_items
from posttrain.data.encoded import Encoded, Limits, Truncation
from posttrain.data.forest import TokenSequence
from posttrain.data.formats import detect_format
from posttrain.data.item import Item
from posttrain.data.templates import encode_step
from posttrain.data.weights import refuse_row_weights
from posttrain.errors import DataError
from posttrain.memory import without_collection


@without_collection()
def encode_pairs(
    rows: Sequence[dict[str, Any]],
    tokenizer: Any,
    *,
    max_length: int = 1024,
    truncation: Truncation = "auto",
    max_masked: float = 0.1,
    max_cut: float = 0.1,
    context: int | None = None,
    max_unusable: float = 0.1,
) -> Encoded:
    """Rows of a preference format as groups of a chosen and a rejected sequence.

    A triple has its reference text as a third, "gold". Without a column prompt, what chosen and
    rejected share is the prompt: the first messages, or the text up to the last "\\n\\nAssistant:"
    that both have. A pair is left out, and counted in `masked`, when both completions are the same
    or one has no token left to compare. A column margin becomes the value of that name. Of a step
    preference, the prompt and the steps before are not trained.

    Args:
        max_length, truncation, max_masked, max_cut, context, max_unusable: see `Limits`.
    Raises:
        DataError: the rows are not of a preference format, a row has a weight, some pairs have a
            margin and others have none, or too many pairs are lost.
    """
    form = detect_format(rows)
    if "preference" not in form.name or "unpaired" in form.name:
        raise DataError(
            f"the rows are of format {form.name} ({form.reason}); pairs need the columns chosen "
            "and rejected, and a prompt"
        )
    is_triple = form.name == "triple preference"
    roles = ("chosen", "rejected", "gold") if is_triple else ("chosen", "rejected")
    refuse_row_weights(rows)
    limits = Limits(max_length, truncation, max_masked, max_cut, context, max_unusable)
    encoded = Encoded([], form, roles=roles)
    for item in usable_items(encoded, rows, with_shared_prompt):
        texts = dict(zip(roles, (item.chosen, item.rejected, item.reference)))
        pair = encoded.fitted(item.row, _completions(item, texts, tokenizer), limits)
        if not pair:
            continue
        if item.margin is not None:
            for sequence in pair:
                sequence.values["margin"] = item.margin
        if all(s.loss_mask.any() for s in pair) and not np.array_equal(pair[0].ids, pair[1].ids):
            encoded.add_group(pair)
        else:
            encoded.masked.append(item.row)
    encoded.refuse_losses(
        limits, "have completions that after cutting are equal, or one of them is empty"
    )
    _refuse_some_margins(encoded)
    return encoded


def _refuse_some_margins(encoded: Encoded) -> None:
    """Refuse pairs of which some have a margin and others have none."""
    lacking = [group[0].row for group in encoded.groups if "margin" not in group[0].values]
    if 0 < len(lacking) < len(encoded.groups):
        raise DataError(
            f"row {lacking[0].split()[0]} has no margin but others have; give it to every row or "
            "to none"
        )


@without_collection()
def encode_labelled(
    rows: Sequence[dict[str, Any]],
    tokenizer: Any,
    *,
    max_length: int = 1024,
    truncation: Truncation = "auto",
    max_masked: float = 0.1,
    max_cut: float = 0.1,
    context: int | None = None,
    max_unusable: float = 0.1,
) -> Encoded:
    """Single completions with the value "label", 1 desirable or 0 undesirable.

    Rows are {prompt, completion, label}, or pairs, of which each completion is taken alone.

    Args:
        max_length, truncation, max_masked, max_cut, context, max_unusable: see `Limits`.
    Raises:
        DataError: the rows are of another format, a row has a weight, or too many rows are lost.
    """
    form = detect_format(rows)
    bounds: dict[str, Any] = {
        "max_length": max_length,
        "truncation": truncation,
        "max_masked": max_masked,
        "max_cut": max_cut,
        "context": context,
        "max_unusable": max_unusable,
    }
    if "unpaired" in form.name:
        refuse_row_weights(rows)
        return encode_rows(rows, tokenizer, **bounds)
    if "preference" not in form.name:
        raise DataError(
            f"the rows are of format {form.name} ({form.reason}); they need the columns prompt, "
            "completion and label, or pairs"
        )
    encoded = encode_pairs(rows, tokenizer, **bounds)
    for group in encoded.groups:
        for sequence, role in zip(group, encoded.roles, strict=True):
            sequence.values = {"label": float(role != "rejected")}
    return replace(encoded, groups=[], roles=())


@without_collection()
def encode_lists(
    rows: Sequence[dict[str, Any]],
    tokenizer: Any,
    *,
    max_length: int = 1024,
    truncation: Truncation = "auto",
    max_masked: float = 0.1,
    max_cut: float = 0.1,
    context: int | None = None,
    max_unusable: float = 0.1,
) -> Encoded:
    """Rows {prompt, completions, scores or ranks} as groups of sequences.

    The value "reward" of a sequence is its score. A group is left out, and counted in `masked`,
    when fewer than two completions have a token, or all scores are equal.

    Args:
        max_length, truncation, max_masked, max_cut, context, max_unusable: see `Limits`.
    Raises:
        DataError: the rows are not of a listwise format, a row has a weight, or too many groups
            are lost.
    """
    form = detect_format(rows)
    if form.name != "listwise":
        raise DataError(
            f"the rows are of format {form.name} ({form.reason}); lists need the columns prompt, "
            "completions and scores (or ranks)"
        )
    refuse_row_weights(rows)
    limits = Limits(max_length, truncation, max_masked, max_cut, context, max_unusable)
    encoded = Encoded([], form)
    for item in usable_items(encoded, rows):
        texts = {str(i): text for i, text in enumerate(item.completions)}
        completions = _completions(item, texts, tokenizer)
        group = encoded.fitted(item.row, completions, limits) if completions else []
        if completions and not group:
            continue
        for sequence, score in zip(group, item.rewards, strict=True):
            sequence.values["reward"] = score
        group = [s for s in group if s.loss_mask.any()]
        if len({s.values["reward"] for s in group}) > 1:
            encoded.add_group(group)
        else:
            encoded.masked.append(item.row)
    encoded.refuse_losses(
        limits, "have after cutting fewer than two completions with a token, or equal scores"
    )
    return encoded


def _completions(item: Item, texts: dict[str, Any], tokenizer: Any) -> list[TokenSequence]:
    """Completions of a row's prompt as sequences. texts: the completions by name."""
    if item.prefix is not None and item.prompt is not None:
        return [
            encode_step(tokenizer, item.prompt, item.prefix, str(text), row=f"{item.row} {name}")
            for name, text in texts.items()
        ]
    halves = [
        replace(item, completion=text, row=f"{item.row} {name}") for name, text in texts.items()
    ]
    return [sequence for _, sequence in encode_items(halves, tokenizer)]
