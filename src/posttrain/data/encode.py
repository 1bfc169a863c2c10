"""From rows to training sequences, with a count of everything that was cut or left out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from posttrain.data.encoded import Encoded, Limits, Truncation
from posttrain.data.forest import TokenSequence
from posttrain.data.formats import detect_format, normalise
from posttrain.data.item import Item
from posttrain.data.store import SequenceStore
from posttrain.data.templates import (
    Tokenized,
    TrainOn,
    encode_messages,
    encode_pair,
    encode_step,
    encode_text,
)
from posttrain.errors import DataError
from posttrain.memory import without_collection
from posttrain.types import Message, Text

_BATCH = 1024  # rows tokenised at a time
_BATCH_CHARACTERS = (
    1 << 18
)  # and characters: what the tokenizer holds per character is a hundred bytes


@without_collection()
def encode_rows(
    rows: Sequence[dict[str, Any]],
    tokenizer: Any,
    *,
    train_on: TrainOn = "auto",
    max_length: int = 1024,
    truncation: Truncation = "auto",
    max_masked: float = 0.1,
    max_cut: float = 0.1,
    context: int | None = None,
    values: Callable[[Item], dict[str, float]] | None = None,
    rationale_weight: float = 0.0,
) -> Encoded:
    """Rows of any known format that has completions, as training sequences.

    A column `weight` says how much the tokens of a row count (1 where it is empty).

    Args:
        rationale_weight: above 0, rows with a column `rationale` become two: see `with_rationales`.
        train_on: "auto" trains completions and assistant turns, and all of a plain text.
        max_length, truncation, max_masked, max_cut, context: see `Limits`.
        values: numbers that each row's sequence carries.
    Raises:
        DataError: unknown format, a row without a completion, more lost than max_cut or max_masked
        allow.
    """
    limits = Limits(max_length, truncation, max_masked, max_cut, context)
    encoded = Encoded([], detect_format(rows))
    encode_into(
        encoded,
        rows,
        tokenizer,
        limits,
        train_on=train_on,
        values=values,
        rationale_weight=rationale_weight,
    )
    encoded.refuse_losses(limits)
    return encoded


@without_collection()
def encode_into(
    encoded: Encoded,
    rows: Iterable[dict[str, Any]],
    tokenizer: Any,
    limits: Limits,
    *,
    train_on: TrainOn = "auto",
    values: Callable[[Item], dict[str, float]] | None = None,
    rationale_weight: float = 0.0,
) -> None:
    """Rows of the format `encoded.form`, read once and one after the other, as sequences of
    `encoded`.

    Args: as of `encode_rows`.
    Raises:
        DataError: a row without a completion, or one that `limits` refuse.
    """

    def items() -> Iterator[Item]:
        for number, row in enumerate(rows):
            encoded.num_rows += (
                2 if rationale_weight else 1
            )  # what is counted as cut are its two sequences
            yield normalise(row, encoded.form, str(row.get("id", number)))

    shaped = with_rationales(items(), rationale_weight) if rationale_weight else items()
    weighted = False
    for item, sequence in encode_items(shaped, tokenizer, train_on):
        if values is not None:
            sequence.values = values(item)
        if item.columns.get("weight") is not None or "weights" in sequence.streams:
            weighted = True
            _weigh(sequence, item)
        if item.label is not None:
            sequence.values["label"] = float(item.label)
        parts = encoded.fitted(item.row, [sequence], limits, text=item.text is not None)
        trained = [part for part in parts if part.loss_mask.any()]
        for part in trained:
            encoded.add(part)
        if parts and not trained:
            encoded.masked.append(item.row)
    if weighted:  # the stream is for all sequences or for none
        _fill_weights(encoded)


def _fill_weights(encoded: Encoded) -> None:
    if isinstance(encoded.sequences, SequenceStore):
        encoded.sequences.fill("weights", 1.0)
        return
    for sequence in encoded.sequences:
        sequence.streams.setdefault("weights", np.ones(len(sequence.ids), dtype=np.float32))


def with_rationales(items: Iterable[Item], weight: float) -> Iterator[Item]:
    """Distilling step by step (arXiv 2305.02301): a row with a rationale becomes two tasks, told
    apart by their prompts.

    "[label] " and the prompt lead to the completion, whose tokens count 1; "[rationale] " and the
    prompt to the rationale, whose tokens count `weight`. With the usual mean over tokens that is
    L_label + weight L_rationale up to a common factor, where both are sums over tokens.

    Raises:
        DataError: a row without a rationale, or without a prompt to put the word before.
    """
    for item in items:
        rationale = item.columns.get("rationale")
        if not isinstance(rationale, str) or not rationale.strip():
            raise DataError(
                f"row {item.row} has no text in the column 'rationale', which "
                "data.rationale_weight needs"
            )
        told: dict[str, Text] = {"label": item.completion or "", "rationale": rationale}
        for task, completion in told.items():
            if isinstance(item.prompt, str):
                prompt: Text = f"[{task}] {item.prompt}"
            elif item.prompt and item.prompt[-1]["role"] == "user":
                prompt = [
                    *item.prompt[:-1],
                    {**item.prompt[-1], "content": f"[{task}] {item.prompt[-1]['content']}"},
                ]
                completion = (
                    [{"role": "assistant", "content": completion}]
                    if isinstance(completion, str)
                    else completion
                )
            else:
                raise DataError(
                    f"row {item.row} has no prompt, which a rationale needs; use the columns "
                    "prompt and completion"
                )
            share = weight if task == "rationale" else 1.0
            columns = {**item.columns, "weight": share * _row_weight(item)}
            yield replace(
                item,
                prompt=prompt,
                completion=completion,
                columns=columns,
                row=f"{item.row} {task}",
            )


def refuse_row_weights(rows: Sequence[dict[str, Any]]) -> None:
    """Refuse a column `weight` where completions are compared or scored as wholes: no such loss
    reads it.

    Raises:
        DataError: a row whose weight is not 1 (an empty one is).
    """
    for number, row in enumerate(rows):
        if row.get("weight") not in (None, 1):
            raise DataError(
                f"row {row.get('id', number)}: weight {row['weight']!r} says how much a row's "
                "tokens count, but losses of "
                "whole completions, pairs and lists count each row once; leave the column out, "
                "and repeat or drop rows instead"
            )


def _row_weight(item: Item) -> float:
    weight = item.columns.get("weight")
    if weight is None:
        return 1.0
    if (
        isinstance(weight, bool)
        or not isinstance(weight, int | float)
        or not 0 <= weight < math.inf
    ):
        raise DataError(
            f"row {item.row}: weight {weight!r} says how much the row's tokens count; a number, 0 "
            "or above"
        )
    return float(weight)


def _weigh(sequence: TokenSequence, item: Item) -> None:
    """Multiply the weights of a sequence's tokens by its row's; a row of weight 0 is not
    trained on.
    """
    factor = _row_weight(item)
    ones = np.ones(len(sequence.ids), dtype=np.float32)
    sequence.streams["weights"] = sequence.streams.get("weights", ones) * np.float32(factor)
    if factor == 0:
        sequence.loss_mask = np.zeros_like(sequence.loss_mask)


def encode_items(
    items: Iterable[Item], tokenizer: Any, train_on: TrainOn = "auto"
) -> Iterator[tuple[Item, TokenSequence]]:
    """Each item with its training sequence; plain text is tokenised many rows at a time."""
    for some in _batched(items):
        plain = (
            t
            for item in some
            for t in (item.text, item.prompt, item.completion)
            if isinstance(t, str)
        )
        known = Tokenized.of(tokenizer, plain)
        for item in some:
            yield item, encode_item(item, tokenizer, train_on, known)


def encode_item(
    item: Item, tokenizer: Any, train_on: TrainOn = "auto", known: Tokenized | None = None
) -> TokenSequence:
    """One row as a training sequence. known: the ids of its plain texts, where they have been
    made already.
    """
    if item.text is not None:
        return encode_text(tokenizer, item.text, row=item.row, known=known)
    if item.completion is None:
        raise DataError(
            f"row {item.row} has no completion to learn from; method sft needs one (columns "
            "prompt, completion)"
        )
    if isinstance(item.completion, str):
        everything = train_on == "everything"
        texts = known if isinstance(item.prompt, str) else None
        return encode_pair(
            tokenizer,
            str(item.prompt),
            item.completion,
            everything=everything,
            row=item.row,
            known=texts,
        )
    prompt: list[Message] = (
        [] if item.prompt is None or isinstance(item.prompt, str) else item.prompt
    )
    chosen: TrainOn = "all_assistant" if train_on == "auto" else train_on
    if item.prompt is not None and train_on in ("auto", "completion"):
        # What the prompt says, its assistant turns included, is given and not learnt.
        prompt = [{**m, "train": False} for m in prompt]
        chosen = "all_assistant"
    elif train_on == "completion":
        chosen = "last"
    return encode_messages(
        tokenizer, [*prompt, *item.completion], tools=item.tools, train_on=chosen, row=item.row
    )


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
) -> Encoded:
    """Rows of a preference format: groups of a chosen and a rejected sequence, and of a triple its
    reference text, "gold".

    A pair is left out, and counted in `masked`, when both completions are the same or one has no
    token left to compare. A column margin becomes the value of that name. Of a step preference, the
    prompt and the steps before are given.

    Raises:
        DataError: not a preference format, a pair without a prompt, a row's weight, too many pairs
        left out.
    """
    form = detect_format(rows)
    if "preference" not in form.name or "unpaired" in form.name:
        raise DataError(
            f"the rows are of format {form.name} ({form.reason}); pairs need the columns chosen "
            "and rejected, and a prompt"
        )
    roles = (
        ("chosen", "rejected", "gold")
        if form.name == "triple preference"
        else ("chosen", "rejected")
    )
    refuse_row_weights(rows)
    limits = Limits(max_length, truncation, max_masked, max_cut, context)
    encoded = Encoded([], form, num_rows=len(rows), roles=roles)
    for number, row in enumerate(rows):
        name = str(row.get("id", number))
        item = normalise(row, form, name)
        if item.prompt is None:
            raise DataError(
                f"row {name} has no prompt; add a column prompt, or write chosen and rejected as "
                "messages"
            )
        texts = dict(zip(roles, (item.chosen, item.rejected, item.reference)))
        pair = encoded.fitted(name, _completions(item, texts, tokenizer), limits)
        if not pair:
            continue
        if item.margin is not None:
            for sequence in pair:
                sequence.values["margin"] = item.margin
        if all(s.loss_mask.any() for s in pair) and not np.array_equal(pair[0].ids, pair[1].ids):
            encoded.add_group(pair)
        else:
            encoded.masked.append(name)
    encoded.refuse_losses(
        limits, "have completions that after cutting are equal, or one of them is empty"
    )
    lacking = [group[0].row for group in encoded.groups if "margin" not in group[0].values]
    if 0 < len(lacking) < len(encoded.groups):
        raise DataError(
            f"row {lacking[0].split()[0]} has no margin but others have; give it to every row or "
            "to none"
        )
    return encoded


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
) -> Encoded:
    """Single completions with the value "label", 1 desirable or 0: rows {prompt, completion,
    label}, or pairs taken apart.

    Raises:
        DataError: another format, a row's weight, too many rows without a trained token.
    """
    form = detect_format(rows)
    bounds: dict[str, Any] = {
        "max_length": max_length,
        "truncation": truncation,
        "max_masked": max_masked,
        "max_cut": max_cut,
        "context": context,
    }
    if "unpaired" in form.name:
        refuse_row_weights(rows)
        return encode_rows(rows, tokenizer, **bounds)
    if "preference" not in form.name:
        raise DataError(
            f"the rows are of format {form.name} ({form.reason}); wanted are the columns prompt, "
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
) -> Encoded:
    """Rows {prompt, completions, scores or ranks} as groups of sequences; the value "reward" of
    each is its score.

    A group is left out, and counted in `masked`, when fewer than two completions have a token, or
    all scores are equal.

    Raises:
        DataError: not a listwise format, a row's weight, too many groups left out.
    """
    form = detect_format(rows)
    if form.name != "listwise":
        raise DataError(
            f"the rows are of format {form.name} ({form.reason}); "
            "lists need the columns prompt, completions and scores (or ranks)"
        )
    refuse_row_weights(rows)
    limits = Limits(max_length, truncation, max_masked, max_cut, context)
    encoded = Encoded([], form, num_rows=len(rows))
    for number, row in enumerate(rows):
        name = str(row.get("id", number))
        item = normalise(row, form, name)
        texts = {str(i): text for i, text in enumerate(item.completions)}
        completions = _completions(item, texts, tokenizer)
        group = encoded.fitted(name, completions, limits) if completions else []
        if completions and not group:
            continue
        for sequence, score in zip(group, item.rewards, strict=True):
            sequence.values["reward"] = score
        group = [s for s in group if s.loss_mask.any()]
        if len({s.values["reward"] for s in group}) > 1:
            encoded.add_group(group)
        else:
            encoded.masked.append(name)
    encoded.refuse_losses(
        limits, "have after cutting fewer than two completions with a token, or equal scores"
    )
    return encoded


def _completions(item: Item, texts: dict[str, Any], tokenizer: Any) -> list[TokenSequence]:
    """Several completions of a row's prompt, by name, as sequences."""
    if item.prefix is not None and item.prompt is not None:
        rows = {name: f"{item.row} {name}" for name in texts}
        return [
            encode_step(tokenizer, item.prompt, item.prefix, str(t), row=rows[name])
            for name, t in texts.items()
        ]
    halves = [
        replace(item, completion=text, row=f"{item.row} {name}") for name, text in texts.items()
    ]
    return [sequence for _, sequence in encode_items(halves, tokenizer)]


def _batched(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Items many at a time, fewer where they are long."""
    batch: list[Item] = []
    characters = 0
    for item in items:
        batch.append(item)
        characters += sum(
            len(t) for t in (item.text, item.prompt, item.completion) if isinstance(t, str)
        )
        if len(batch) >= _BATCH or characters >= _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
