"""Rows with completions as training sequences; counts everything that is cut or left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from posttrain.data.conversations import encode_messages
from posttrain.data.encoded import Encoded, Limits, Truncation
from posttrain.data.forest import TokenSequence
from posttrain.data.formats import detect_format, normalise
from posttrain.data.item import Item
from posttrain.data.templates import Tokenized, TrainOn, encode_pair, encode_text
from posttrain.data.weights import fill_weights, row_weight, weigh, with_rationale
from posttrain.errors import DataError
from posttrain.memory import without_collection
from posttrain.types import Message

_BATCH = 1024  # rows tokenised at a time
_BATCH_CHARACTERS = 1 << 18  # and characters; the tokenizer holds a hundred bytes for each


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
    max_unusable: float = 0.1,
) -> Encoded:
    """Rows of any format with completions, as training sequences.

    A column `weight` says how much the tokens of a row count (1 where it is empty).

    Args:
        train_on: "auto" trains completions and assistant turns, and all of a plain text.
        max_length, truncation, max_masked, max_cut, context, max_unusable: see `Limits`.
        values: numbers that each row's sequence carries.
        rationale_weight: above 0, a row with a column `rationale` becomes two: see
            `with_rationale`.
    Raises:
        DataError: the format is unknown or has no completions, or too many rows are lost.
    """
    limits = Limits(max_length, truncation, max_masked, max_cut, context, max_unusable)
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
    """Add rows of the format `encoded.form` as sequences; reads them once, one after the other.

    Args: as of `encode_rows`.
    Raises:
        DataError: the rows have no completion, or `limits` refuse one that is too long.
    """
    weighted = False
    items = _training_items(encoded, rows, rationale_weight)
    for item, sequence in encode_items(items, tokenizer, train_on):
        if values is not None:
            sequence.values = values(item)
        if item.columns.get("weight") is not None or "weights" in sequence.streams:
            weighted = True
            weigh(sequence, item)
        if item.label is not None:
            sequence.values["label"] = float(item.label)
        parts = encoded.fitted(item.row, [sequence], limits, text=item.text is not None)
        trained = [part for part in parts if part.loss_mask.any()]
        for part in trained:
            encoded.add(part)
        if parts and not trained:
            encoded.masked.append(item.row)
    if weighted:  # the stream is in all sequences or in none
        fill_weights(encoded)


def usable_items(
    encoded: Encoded,
    rows: Iterable[dict[str, Any]],
    complete: Callable[[Item], Item] = lambda item: item,
) -> Iterator[Item]:
    """Each row in one shape; a row that cannot be used is counted and left out.

    Args:
        encoded: has the rows' format, and counts them.
        complete: what is done to each item; a DataError leaves the row out.
    """
    for number, row in enumerate(rows):
        encoded.num_rows += 1
        try:
            item = complete(normalise(row, encoded.form, str(row.get("id", number))))
        except DataError as error:
            encoded.skip(error)
        else:
            yield item


def _training_items(
    encoded: Encoded, rows: Iterable[dict[str, Any]], rationale_weight: float
) -> Iterator[Item]:
    """The usable rows; with a rationale_weight each is two items, and counts as two rows."""

    def check(item: Item) -> Item:
        row_weight(item)
        if rationale_weight:
            with_rationale(item, rationale_weight)
        return item

    for item in usable_items(encoded, rows, check):
        if not rationale_weight:
            yield item
            continue
        encoded.num_rows += 1  # the two sequences are cut or dropped each on its own
        yield from with_rationale(item, rationale_weight)


def encode_items(
    items: Iterable[Item], tokenizer: Any, train_on: TrainOn = "auto"
) -> Iterator[tuple[Item, TokenSequence]]:
    """Each item with its training sequence; plain text is tokenised many rows at a time."""
    for batch in _batched(items):
        texts = (text for item in batch for text in _plain_texts(item))
        cached = Tokenized.of(tokenizer, texts)
        for item in batch:
            yield item, encode_item(item, tokenizer, train_on, cached)


def encode_item(
    item: Item, tokenizer: Any, train_on: TrainOn = "auto", cached: Tokenized | None = None
) -> TokenSequence:
    """One row as a training sequence.

    Args:
        cached: the ids of the row's plain texts, if they have been tokenised already.
    Raises:
        DataError: the row has no completion. TemplateError: the chat template cannot be used.
    """
    if item.text is not None:
        return encode_text(tokenizer, item.text, row=item.row, cached=cached)
    if item.completion is None:
        raise DataError(
            f"row {item.row} has no completion to learn from; method sft needs one (columns "
            "prompt, completion)"
        )
    if isinstance(item.completion, str):
        return encode_pair(
            tokenizer,
            str(item.prompt),
            item.completion,
            everything=train_on == "everything",
            row=item.row,
            cached=cached if isinstance(item.prompt, str) else None,
        )
    prompt: list[Message] = (
        [] if item.prompt is None or isinstance(item.prompt, str) else item.prompt
    )
    chosen: TrainOn = "all_assistant" if train_on == "auto" else train_on
    if item.prompt is not None and train_on in ("auto", "completion"):
        # Nothing of the prompt is trained, its assistant turns included.
        prompt = [{**m, "train": False} for m in prompt]
        chosen = "all_assistant"
    elif train_on == "completion":
        chosen = "last"
    return encode_messages(
        tokenizer, [*prompt, *item.completion], tools=item.tools, train_on=chosen, row=item.row
    )


def _plain_texts(item: Item) -> list[str]:
    return [t for t in (item.text, item.prompt, item.completion) if isinstance(t, str)]


def _batched(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Items many at a time, fewer where they are long."""
    batch: list[Item] = []
    num_characters = 0
    for item in items:
        batch.append(item)
        num_characters += sum(len(text) for text in _plain_texts(item))
        if len(batch) >= _BATCH or num_characters >= _BATCH_CHARACTERS:
            yield batch
            batch, num_characters = [], 0
    if batch:
        yield batch
