"""From a recipe's data to training sequences, with an account of what was lost. All methods on
rows come here.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from posttrain.config import DataConfig
from posttrain.data.account import Account
from posttrain.data.corpus import encode_documents, read_parts, text_files
from posttrain.data.encode import encode_into
from posttrain.data.encoded import Encoded, Limits
from posttrain.data.formats import RowFormat, format_to_imitate, to_imitate
from posttrain.data.rows import load_rows, stream_rows
from posttrain.data.store import SequenceStore
from posttrain.errors import ConfigError, DataError
from posttrain.training.reference import cache_folder

E = TypeVar("E", bound=Encoded)

_DETECTED_ROWS = 50  # by which the format is detected


def limits_of(data: DataConfig, context: int | None, key: str) -> Limits:
    """The limits of a recipe's data.

    Args:
        context: tokens that the model allows, None = unknown. key: of the recipe, for messages.

    Raises:
        ConfigError: max_length exceeds the model's context.
    """
    max_length = data.max_length or min(1024, context or 1024)
    if context is not None and max_length > context:
        raise ConfigError(
            f"{key}.max_length: {data.max_length} exceeds the model's context of {context}"
        )
    return Limits(max_length, data.truncation, data.max_masked, data.max_cut, context)


def read_rows(data: DataConfig, *, key: str = "data") -> list[dict[str, Any]]:
    """The rows of a recipe's data."""
    _refuse_document(data, key)
    return load_rows(
        data.path,
        subset=data.subset,
        split=data.split,
        limit=data.limit,
        columns=data.columns,
    )


def encode_data(
    data: DataConfig,
    tokenizer: Any,
    context: int | None,
    encode: Callable[..., E],
    rows: list[dict[str, Any]] | None = None,
    *,
    account: Account,
    key: str = "data",
) -> E:
    """The rows of a recipe's data as sequences, by one of the functions of `data.encode` and
    `data.scored`.

    Args:
        rows: those of `data`, if they have been read already. key: of the recipe that holds `data`,
        for
            messages and metrics.
    Raises:
        ConfigError, DataError: a setting of `data` that cannot be; rows that cannot be used; too
        much lost.
    """
    limits = limits_of(data, context, key)
    rows = read_rows(data, key=key) if rows is None else rows
    with _named(key):
        encoded = encode(
            rows,
            tokenizer,
            max_length=limits.max_length,
            truncation=limits.truncation,
            max_masked=limits.max_masked,
            max_cut=limits.max_cut,
            context=context,
        )
    note_losses(account, encoded, key)
    return encoded


def encode_stream(
    data: DataConfig, tokenizer: Any, context: int | None, *, account: Account, key: str = "data"
) -> Encoded:
    """The rows or documents of a recipe's data as sequences to imitate, read one by one in bounded
    memory.

    Raises:
        ConfigError, DataError: as `encode_data`.
    """
    limits = limits_of(data, context, key)
    store = SequenceStore(cache_folder() / "tokens")
    files = [] if data.columns or data.rationale_weight else _text_files(data)
    with _named(key):
        if files:
            encoded = _encode_files(tokenizer, data, files, limits, store)
        else:
            encoded = _encode_rows(tokenizer, data, limits, store, key)
        encoded.refuse_losses(limits)
    note_losses(account, encoded, key)
    return encoded


_FILES = {"paragraph": "paragraphs between blank lines", "line": "lines", "file": "whole files"}


def _text_files(data: DataConfig) -> list[Path]:
    return text_files(Path(data.path).expanduser(), data.split)


def _encode_files(
    tokenizer: Any, data: DataConfig, files: list[Path], limits: Limits, store: SequenceStore
) -> Encoded:
    encoded = Encoded(store, RowFormat("text", f"{_FILES[data.document]} of .txt files"), text=True)
    parts = (part for file in files for part in read_parts(file, data.document))
    encode_documents(encoded, parts, tokenizer, limits, limit=data.limit)
    if not encoded.num_rows:
        raise DataError(f"{data.path} holds no text")
    return encoded


def _encode_rows(
    tokenizer: Any, data: DataConfig, limits: Limits, store: SequenceStore, key: str
) -> Encoded:
    _refuse_document(data, key)
    rows = stream_rows(
        data.path,
        subset=data.subset,
        split=data.split,
        limit=data.limit,
        columns=data.columns,
    )
    first = list(itertools.islice(rows, _DETECTED_ROWS))
    encoded = Encoded(store, format_to_imitate(first))
    form = encoded.form
    encoded.text = form.name == "text"
    undesirable = 0

    def imitated() -> Iterator[dict[str, Any]]:
        nonlocal undesirable
        for row in itertools.chain(first, rows):
            if to_imitate(row, form):
                yield row
            else:
                undesirable += 1

    encode_into(
        encoded,
        imitated(),
        tokenizer,
        limits,
        train_on=data.train_on,
        rationale_weight=data.rationale_weight,
    )
    if undesirable and not encoded.num_rows:
        raise DataError(
            f"the rows are of format {form.name} and none is desirable, so there is nothing to "
            "imitate"
        )
    if undesirable:
        encoded.form = replace(
            form, reason=f"{form.reason}; {undesirable} undesirable rows left out"
        )
    return encoded


def note_losses(account: Account, encoded: Encoded, key: str) -> None:
    """Put on record what was lost: shown by a check and when the run starts, and written to its
    metrics.
    """
    account.metrics |= encoded.lost_metrics(key)
    if text := encoded.lost_text():
        account.losses[f"{key} lost"] = text


@contextlib.contextmanager
def _named(key: str) -> Iterator[None]:
    """Errors name the settings of the data they are about."""
    try:
        yield
    except DataError as error:
        if key == "data":
            raise
        text = re.sub(
            r"\bdata\.(max_length|max_cut|max_masked|truncation)\b", rf"{key}.\1", str(error)
        )
        raise DataError(f"{key}: {text}") from error


def _refuse_document(data: DataConfig, key: str) -> None:
    if data.document != "paragraph":
        raise ConfigError(
            f"{key}.document: {data.document!r} says what a document of .txt files is, which "
            "methods sft "
            "and distill read as plain text; leave it out"
        )


def data_facts(encoded: Encoded) -> list[tuple[str, str]]:
    """What a check shows of rows to imitate."""
    lengths = encoded.lengths
    if not encoded.text:
        return [
            (
                "rows",
                f"{encoded.num_rows}, of which {encoded.truncated} cut, {encoded.dropped} dropped "
                "as too long, "
                f"{len(encoded.masked)} without a trained token",
            ),
            (
                "tokens",
                f"{int(lengths.sum())}, trained "
                f"{encoded.num_trained / max(int(lengths.sum()), 1):.0%}; "
                f"longest row {int(lengths.max())}",
            ),
        ]
    kept = encoded.num_tokens - encoded.tokens_cut - encoded.tokens_dropped
    return [
        (
            "documents",
            f"{encoded.num_rows:,}, in {len(encoded.sequences):,} sequences of at most "
            f"{int(lengths.max()):,} "
            f"tokens: {encoded.split:,} split, {encoded.truncated:,} cut, {encoded.dropped:,} "
            "dropped as too "
            f"long, {len(encoded.masked):,} without a trained token",
        ),
        (
            "tokens",
            f"{kept:,} of {encoded.num_tokens:,}; {encoded.num_trained:,} are targets, each once "
            "per epoch "
            "(all but the first of each document)",
        ),
    ]
