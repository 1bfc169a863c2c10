"""From a `DataConfig` or a task to training sequences. All methods on rows start here."""

from __future__ import annotations

import contextlib
import itertools
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from posttrain.config import DataConfig
from posttrain.data.account import Account
from posttrain.data.corpus import encode_documents, read_parts, text_files
from posttrain.data.encode import encode_into, encode_items
from posttrain.data.encoded import Encoded, Limits, rounded_up
from posttrain.data.formats import RowFormat, format_to_imitate, to_imitate
from posttrain.data.item import Item, tools_of
from posttrain.data.rows import Row, rows_of, stream_of
from posttrain.data.store import SequenceStore
from posttrain.errors import ConfigError, DataError
from posttrain.files import cache_folder
from posttrain.types import Task

E = TypeVar("E", bound=Encoded)

_DETECTED_ROWS = 50  # the format is detected by these
_DOCUMENTS = {"paragraph": "paragraphs between blank lines", "line": "lines", "file": "whole files"}


def limits_of(data: DataConfig, context: int | None, key: str = "data") -> Limits:
    """The limits that a `DataConfig` sets.

    Args:
        context: tokens that the model allows; None if unknown.
        key: name of `data` in messages.
    Raises:
        ConfigError: max_length is below 2, or exceeds the model's context.
    """
    max_length = min(1024, context or 1024) if data.max_length is None else data.max_length
    if max_length < 2:
        raise ConfigError(
            f"{key}.max_length: {max_length} tokens hold nothing to predict; it must be at least 2"
        )
    if context is not None and max_length > context:
        raise ConfigError(
            f"{key}.max_length: {max_length} exceeds the model's context of {context}; set it to "
            f"at most {context}"
        )
    return Limits(
        max_length=max_length,
        truncation=data.truncation,
        max_masked=data.max_masked,
        max_cut=data.max_cut,
        context=context,
        max_unusable=data.max_unusable,
    )


def read_rows(data: DataConfig, *, key: str = "data") -> list[Row]:
    """The rows of `data`.

    Args:
        key: name of `data` in messages.
    Raises:
        ConfigError: `data.document` is set, which is of .txt files that are read as plain text.
        DataError: there are no rows.
    """
    _refuse_document(data, key)
    return rows_of(data)


def encode_data(
    data: DataConfig,
    tokenizer: Any,
    context: int | None,
    encode: Callable[..., E],
    rows: Sequence[Row] | None = None,
    *,
    account: Account,
    key: str = "data",
) -> E:
    """The rows of `data` as sequences.

    Args:
        context: tokens that the model allows; None if unknown.
        encode: a function such as `encode_rows`, `encode_pairs` or `encode_scores`.
        rows: those of `data`, if they have been read already.
        account: where losses are recorded.
        key: name of `data` in messages and metrics.
    Raises:
        ConfigError: a setting of `data` is out of range.
        DataError: the rows are of another format, or too many of them are lost.
    """
    limits = limits_of(data, context, key)
    if rows is None:
        rows = read_rows(data, key=key)
    with _named(key):
        encoded = encode(
            rows,
            tokenizer,
            max_length=limits.max_length,
            truncation=limits.truncation,
            max_masked=limits.max_masked,
            max_cut=limits.max_cut,
            context=context,
            max_unusable=limits.max_unusable,
        )
    account.add(encoded, key)
    return encoded


def encode_stream(
    data: DataConfig,
    tokenizer: Any,
    context: int | None,
    *,
    account: Account,
    key: str = "data",
) -> Encoded:
    """The rows or documents of `data` as sequences to imitate, read one by one in bounded memory.

    Token ids that exceed memory are kept in a file of the cache folder.

    Args: as of `encode_data`.
    Raises:
        ConfigError, DataError: as `encode_data`.
    """
    limits = limits_of(data, context, key)
    store = SequenceStore(cache_folder() / "tokens")
    files = _text_files(data)
    with _named(key):
        if files:
            encoded = _encode_files(data, files, tokenizer, limits, store)
        else:
            _refuse_document(data, key)
            rows = stream_of(data)
            encoded = _encode_rows(data, rows, tokenizer, limits, store)
        encoded.refuse_losses(limits)
    account.add(encoded, key)
    return encoded


def encode_task(
    task: Task,
    tokenizer: Any,
    context: int | None,
    *,
    account: Account,
    max_dropped: float = 0.1,
    key: str = "data",
) -> Encoded:
    """The worked examples of a task as sequences to imitate.

    An example without a prompt is plain text, which is split at the model's context. Any other
    example that exceeds the context is dropped, because half of it would be another example.

    Args:
        max_dropped: largest share of the examples that may be dropped.
    Raises:
        DataError: an example has no completion, or too many are dropped.
    """
    items = [
        Item(e.id, text=e.completion)
        if e.prompt == "" and isinstance(e.completion, str)
        else Item(e.id, prompt=e.prompt, completion=e.completion, tools=tools_of(e.columns, e.id))
        for e in task.examples
    ]
    form = RowFormat("task", f"worked examples of {task.name}")
    only_text = all(item.text is not None for item in items)
    encoded = Encoded([], form, num_rows=len(items), text=only_text)
    limits = Limits(context or sys.maxsize, truncation="drop", max_cut=1.0, context=context)
    for item, sequence in encode_items(items, tokenizer):
        is_text = item.text is not None
        own_limits = replace(limits, truncation="split") if is_text else limits
        for part in encoded.fitted(item.row, [sequence], own_limits, text=is_text):
            encoded.add(part)
    encoded.refuse_losses(limits)
    share = encoded.dropped / max(encoded.num_rows, 1)
    if share > max_dropped:
        raise DataError(
            f"task {task.name!r}: {encoded.dropped} of {encoded.num_rows} worked examples exceed "
            f"the model's context of {context} tokens, more than max_prompts_dropped="
            f"{max_dropped:g} allows. Take a model with a longer context, or set "
            f"max_prompts_dropped={rounded_up(share)} to drop them"
        )
    account.add(encoded, key)
    return encoded


def _text_files(data: DataConfig) -> list[Path]:
    """The .txt files of `data`, where nothing but their text is read."""
    if data.rows is not None or data.sources or data.columns or data.rationale_weight:
        return []
    return text_files(Path(data.path).expanduser(), data.split)


def _encode_files(
    data: DataConfig, files: list[Path], tokenizer: Any, limits: Limits, store: SequenceStore
) -> Encoded:
    form = RowFormat("text", f"{_DOCUMENTS[data.document]} of .txt files")
    encoded = Encoded(store, form, text=True)
    parts = (part for file in files for part in read_parts(file, data.document))
    encode_documents(encoded, parts, tokenizer, limits, limit=data.limit)
    if not encoded.num_rows:
        raise DataError(f"{data.path} holds no text")
    return encoded


def _encode_rows(
    data: DataConfig, rows: Iterator[Row], tokenizer: Any, limits: Limits, store: SequenceStore
) -> Encoded:
    first = list(itertools.islice(rows, _DETECTED_ROWS))
    form = format_to_imitate(first)
    encoded = Encoded(store, form, text=form.name == "text")
    num_undesirable = 0

    def imitated() -> Iterator[Row]:
        nonlocal num_undesirable
        for row in itertools.chain(first, rows):
            if to_imitate(row, form):
                yield row
            else:
                num_undesirable += 1

    encode_into(
        encoded,
        imitated(),
        tokenizer,
        limits,
        train_on=data.train_on,
        rationale_weight=data.rationale_weight,
    )
    if num_undesirable and not encoded.num_rows:
        raise DataError(
            f"the rows are of format {form.name} and none is desirable, so there is nothing to "
            "imitate"
        )
    if num_undesirable:
        reason = f"{form.reason}; {num_undesirable} undesirable rows left out"
        encoded.form = replace(form, reason=reason)
    return encoded


@contextlib.contextmanager
def _named(key: str) -> Iterator[None]:
    """Let errors name the settings by the key of the data they are about, such as eval_data."""
    try:
        yield
    except DataError as error:
        if key == "data":
            raise
        settings = r"\bdata\.(max_length|max_cut|max_masked|max_unusable|truncation)\b"
        text = re.sub(settings, rf"{key}.\1", str(error))
        raise DataError(f"{key}: {text}") from error


def _refuse_document(data: DataConfig, key: str) -> None:
    if data.document != "paragraph":
        raise ConfigError(
            f"{key}.document: {data.document!r} says what a document of .txt files is, which "
            "methods sft and distill read as plain text; leave it out"
        )


def data_facts(encoded: Encoded) -> list[tuple[str, str]]:
    """What a check shows of rows to imitate, as (name, text)."""
    num_tokens = int(encoded.lengths.sum())
    longest = int(encoded.lengths.max())
    lost = (
        f"{encoded.truncated:,} cut, {encoded.dropped:,} dropped as too long, "
        f"{len(encoded.masked):,} without a trained token"
    )
    if not encoded.text:
        trained = encoded.num_trained / max(num_tokens, 1)
        return [
            ("rows", f"{encoded.num_rows}, of which {lost}"),
            ("tokens", f"{num_tokens}, trained {trained:.0%}; longest row {longest}"),
        ]
    num_left = encoded.num_tokens - encoded.tokens_cut - encoded.tokens_dropped
    return [
        (
            "documents",
            f"{encoded.num_rows:,}, in {len(encoded.sequences):,} sequences of at most "
            f"{longest:,} tokens: {encoded.split:,} split, {lost}",
        ),
        (
            "tokens",
            f"{num_left:,} of {encoded.num_tokens:,}; {encoded.num_trained:,} are targets, each "
            "once per epoch (all but the first of each document)",
        ),
    ]


def steps_text(steps: int, batch_size: int, num_groups: int, unit: str) -> str:
    """The steps of a training and what one step holds.

    >>> steps_text(5, 16, 80, "rows")
    '5 steps of 16 rows'
    >>> steps_text(1, 64, 10, "rows")
    '1 step of 10 rows (batch_size 64)'

    Args:
        num_groups: rows, pairs or sequences that there are.
        unit: what is counted, in the plural.
    """
    noun = "step" if steps == 1 else "steps"
    if num_groups < batch_size:
        return f"{steps} {noun} of {num_groups} {unit} (batch_size {batch_size})"
    return f"{steps} {noun} of {batch_size} {unit}"
