"""Copies among rows, and rows that hold items of an evaluation: found, and left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from posttrain.config import DataLike
from posttrain.curation.row_writer import check_output, write_rows
from posttrain.data.duplicates import Duplicates, find_duplicates
from posttrain.data.row_texts import RowTexts
from posttrain.data.rows import Row, stream_of
from posttrain.evaluation.contamination import Contamination, contamination

Files = DataLike | Sequence[str | Path]
"""Rows, or several files one after the other."""


def parts_of(data: Files) -> list[DataLike]:
    """The sources of some data: several paths are one each, anything else is one."""
    if isinstance(data, list | tuple) and data and all(isinstance(p, str | Path) for p in data):
        return list(data)
    if isinstance(data, Iterator):
        return [list(data)]
    return [data]  # type: ignore[list-item]


def rows_in(data: Files) -> Iterator[Row]:
    """The rows of all parts, one after the other."""
    for part in parts_of(data):
        yield from stream_of(part)


def texts_in(data: Files, columns: Sequence[str] | None = None) -> Iterator[str]:
    """The text of each row by which copies are told. The format is found part by part."""
    for part in parts_of(data):
        for _, text in RowTexts(columns)(stream_of(part)):
            yield text.text


class TextRows:
    """Rows {"text": ...} of some data, which can be read any number of times."""

    def __init__(self, data: Files, columns: Sequence[str] | None = None) -> None:
        self._data, self._columns = data, columns

    def __iter__(self) -> Iterator[Row]:
        return ({"text": text} for text in texts_in(self._data, self._columns))


def duplicates(
    data: Files,
    *,
    threshold: float = 0.7,
    n: int = 2,
    bands: int = 32,
    rows_per_band: int = 4,
    near: bool = True,
    columns: Sequence[str] | None = None,
    seed: int = 0,
) -> Duplicates:
    """Rows that are copies of earlier rows, equal or nearly so (MinHash).

        result = pt.duplicates("train.jsonl")
        print(result); result.kept

    The text of a row is its prompt and its completions, in whatever format; ids and other columns
    do not count. A near copy shares at least `threshold` of its runs of n words: see
    `posttrain.data.duplicates`.

    Args:
        data: rows, a file, or several files one after the other.
        threshold: least Jaccard similarity of a near copy.
        n: words of a run.
        bands, rows_per_band: a pair of similarity s is looked at with probability
            1 - (1 - s^rows_per_band)^bands.
        near: look for near copies too; False finds equal texts alone.
        columns: columns whose text is compared, in place of prompt and completions.
        seed: of the permutations.

    Raises:
        ConfigError: a number out of range. DataError: as `rows_of`.
    """
    return find_duplicates(
        texts_in(data, columns),
        threshold=threshold,
        n=n,
        bands=bands,
        rows_per_band=rows_per_band,
        near=near,
        seed=seed,
    )


@dataclass(slots=True)
class Deduplicated:
    """What is left of rows without their copies.

    rows: those that are left; empty where they were written to a file. duplicates: what was found.
    overlaps: by the name of the evaluation. num_overlapping: rows left out for them.
    """

    rows: list[Row]
    duplicates: Duplicates
    overlaps: dict[str, Contamination] = field(default_factory=dict)
    num_overlapping: int = 0
    num_rows: int = 0

    def __str__(self) -> str:
        lines = [str(self.duplicates)]
        for name, report in self.overlaps.items():
            lines.append(f"{name}: {len(report.hits)} of {report.num_items} items are in the rows")
        if self.overlaps:
            lines.append(f"{self.num_overlapping:,} rows left out that hold such items")
        return "\n".join([*lines, f"{self.num_rows:,} rows left"])


def deduplicate(
    data: Files,
    *,
    against: Mapping[str, DataLike] | None = None,
    threshold: float = 0.7,
    n: int = 2,
    near: bool = True,
    columns: Sequence[str] | None = None,
    evaluation_columns: Sequence[str] | None = None,
    seed: int = 0,
    output: str | Path | None = None,
    force: bool = False,
) -> Deduplicated:
    """Rows without copies of earlier rows, and without items of evaluations.

        rows = pt.deduplicate("train.jsonl", against={"gsm8k": "gsm8k/test.jsonl"}).rows

    Args:
        data: rows, a file, or several files one after the other. They are read twice.
        against: evaluations by name. A row is left out where it holds half of the runs of 13 words
            of an item, or most of them where only several rows together do (`pt.contamination`).
        threshold: least Jaccard similarity of a near copy.
        n: words of a run.
        near: leave out near copies too.
        columns: columns whose text is compared.
        evaluation_columns: columns of the evaluations that are looked for, such as question.
        seed: of the permutations.
        output: a .jsonl file for the rows, in place of a list.
        force: replace `output` if it exists.

    Raises:
        ConfigError: a number out of range, or `output` exists. DataError: as `rows_of`.
    """
    place = check_output(output, force=force) if output is not None else None
    if isinstance(data, Iterator):
        data = list(data)
    result = duplicates(data, threshold=threshold, n=n, near=near, columns=columns, seed=seed)
    keep = result.first < 0
    done = Deduplicated([], result)
    for name, items in (against or {}).items():
        report = contamination(items, TextRows(data, columns), columns=evaluation_columns)
        done.overlaps[name] = report
        holding = sorted({row for hit in report.hits for row in hit.rows})
        done.num_overlapping += int(keep[holding].sum()) if holding else 0
        keep[holding] = False
    left = kept_rows(data, keep)
    if place is None:
        done.rows = list(left)
        done.num_rows = len(done.rows)
    else:
        done.num_rows = write_rows(place, left)
    return done


def kept_rows(data: Files, keep: np.ndarray) -> Iterator[Row]:
    """The rows of which `keep` says so. keep: bool [rows]."""
    return (row for row, stays in zip(rows_in(data), keep, strict=True) if stays)
