"""Several sources of rows as one: their shares, repeats and order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from posttrain.config import DataConfig, DataLike
from posttrain.curation.measures import Measures, measured
from posttrain.curation.row_writer import check_output, write_rows
from posttrain.curation.selection import row_texts
from posttrain.data.mixture import (
    Reader,
    counts,
    easiest_first,
    in_one_format,
    mixed,
    rates,
    size_of,
)
from posttrain.data.rows import Row, stream_of
from posttrain.errors import ConfigError, DataError
from posttrain.methods.objects import ModelLike, model_of


@dataclass(slots=True)
class Mixed:
    """A mixture.

    rows: empty where they were written to a file. sizes: rows of each source. numbers: rows of each
    source in the mixture; above its size where it repeats.
    """

    rows: list[Row]
    names: list[str]
    sizes: list[int]
    numbers: list[int]

    def __str__(self) -> str:
        total = max(sum(self.numbers), 1)
        lines = [f"{total:,} rows of {len(self.names)} sources"]
        for name, size, number in zip(self.names, self.sizes, self.numbers, strict=True):
            repeats = f", {number / size:.2g} times each" if number > size else ""
            lines.append(f"  {number / total:6.1%}  {number:,} of {size:,}{repeats}  {name}")
        return "\n".join(lines)


def mix(
    sources: Sequence[DataLike] | Mapping[str, DataLike],
    *,
    weights: Sequence[float] | None = None,
    temperature: float = 1.0,
    max_examples: int | None = None,
    num_rows: int | None = None,
    easiest: str | None = None,
    difficulty: Literal["measure", "column"] = "measure",
    model: ModelLike | None = None,
    seed: int = 0,
    output: str | Path | None = None,
    force: bool = False,
) -> Mixed:
    """Rows of several sources in a random order, or the easiest first.

        pt.mix(["chat.jsonl", "math.jsonl"], weights=[3, 1], output="train.jsonl")
        pt.mix({"chat": chat_rows, "math": math_rows}, max_examples=50_000, temperature=2).rows

    Without weights the shares are min(rows, max_examples)^(1/temperature) (T5, arXiv 1910.10683):
    see `posttrain.data.mixture`. Formats must agree, or be all conversations, all pairs of texts,
    or all preferences, which are then written in one shape. A recipe mixes as it reads with
    data.sources.

    Args:
        sources: rows, files, or rows by name.
        weights: share of each source against the others.
        temperature: 1 is proportional to the number of rows; larger is nearer to equal shares.
        max_examples: rows of one source that count for its share at most.
        num_rows: rows of the mixture; None takes as many as no source repeats itself for.
        easiest: a quality measure, such as "perplexity" or "tokens", or a column of numbers, by
            which the rows are put in rising order: a curriculum (Bengio et al. 2009). Fine-tuning
            keeps that order with data.order=as_given. The rows are then held in memory.
        difficulty: whether `easiest` names a measure or a column.
        model: for measures that need one.
        seed: of the choice and the order.
        output: a .jsonl file for the rows, in place of a list.
        force: replace `output` if it exists.

    Raises:
        ConfigError: a number out of range. DataError: formats that cannot be mixed, or a source
            without rows.
    """
    given = list(sources.values()) if isinstance(sources, Mapping) else list(sources)
    if len(given) < 1:
        raise ConfigError("sources: give at least one")
    names = list(sources) if isinstance(sources, Mapping) else [_name(s, i) for i, s in
                                                                enumerate(given)]  # fmt: skip
    place = check_output(output, force=force) if output is not None else None
    spec = model_of(model)
    if easiest is not None and difficulty == "measure":
        Measures.of([easiest], spec)
    readers = in_one_format([_reader(source) for source in given], names)
    sizes = [size_of(read, name) for read, name in zip(readers, names, strict=True)]
    shares = rates(sizes, weights=weights, temperature=temperature, max_examples=max_examples)
    numbers = counts(sizes, shares, num_rows)
    rows: Iterator[Row] = (dict(row) for _, row in mixed(readers, numbers, sizes, seed=seed))
    if easiest is not None:
        held = list(rows)
        if difficulty == "column":
            values = [_number(row, easiest, i) for i, row in enumerate(held)]
        else:
            values = list(measured(row_texts(held), Measures.of([easiest], spec))[easiest])
        rows = (dict(row) for row in easiest_first(held, values))
    result = Mixed([], names, sizes, numbers)
    if place is None:
        result.rows = list(rows)
    else:
        write_rows(place, rows)
    return result


def _name(source: DataLike, place: int) -> str:
    if isinstance(source, str | Path):
        return str(source)
    return source.path if isinstance(source, DataConfig) else f"source {place}"


def _reader(source: DataLike) -> Reader:
    config = DataConfig.of(source)  # reads an iterator at once, so that it can be read again
    return lambda: stream_of(config)


def _number(row: Row, column: str, place: int) -> float:
    value = row.get(column)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DataError(
            f"row {place}: column {column!r} is {value!r}; a curriculum needs a number in each row"
        )
    return float(value)
