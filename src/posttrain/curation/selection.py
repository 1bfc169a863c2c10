"""Rows of which measures are within bounds."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from posttrain.config import Component
from posttrain.curation.copies import Files, kept_rows, parts_of
from posttrain.curation.measures import Measures, measured
from posttrain.curation.row_vectors import Embeddings
from posttrain.curation.row_writer import check_output, write_rows
from posttrain.data.row_texts import RowText, RowTexts
from posttrain.data.rows import Row, stream_of
from posttrain.errors import ConfigError
from posttrain.methods.objects import ModelLike, model_of
from posttrain.overrides import apply_overrides

Array = np.ndarray

_BOUND = re.compile(
    r"\s*(?P<name>[A-Za-z_]\w*)(?::(?P<settings>[^<>=]+=[^<>]*?))?\s*"
    r"(?P<sign><=|>=|<|>)\s*(?P<percent>[pP])?(?P<value>[-+.\deE]+)\s*$"
)
_SIGNS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


@dataclass(frozen=True, slots=True)
class Bound:
    """A condition on a measure, such as "ifd<1" or "perplexity<p95".

    text: as it was written. component: the measure with its settings. is_percentile: the value is a
    percentile of the rows' own values.
    """

    text: str
    component: Component
    sign: str
    value: float
    is_percentile: bool = False

    @classmethod
    def of(cls, text: str) -> Bound:
        """A bound from its text: NAME<NUMBER, NAME:setting=value>=NUMBER, NAME<pPERCENTILE.

        Raises:
            ConfigError: it is no such text.
        """
        match = _BOUND.match(text)
        try:
            value = float(match["value"]) if match else float("nan")
        except ValueError:
            match = None
        if match is None:
            raise ConfigError(
                f"where: {text!r} is no bound; write NAME<NUMBER, such as 'ifd<1', "
                "'tokens<=2048', 'language:code=de>0.5' or 'perplexity<p95' (below the 95th "
                "percentile)"
            )
        settings: dict[str, Any] = {}
        for change in filter(None, (match["settings"] or "").split(",")):
            settings = apply_overrides(settings, [change])
        if match["percent"] and not 0 <= value <= 100:
            raise ConfigError(f"where: {text!r}: a percentile is from 0 to 100")
        component = Component(match["name"], settings)
        return cls(text, component, match["sign"], value, bool(match["percent"]))

    def holds(self, values: Array) -> Array:
        """Which values are within the bound; NaN is not. [R] -> bool [R]."""
        limit = self.value
        if self.is_percentile:
            finite = values[np.isfinite(values)]
            limit = float(np.percentile(finite, self.value)) if len(finite) else np.nan
        with np.errstate(invalid="ignore"):
            return np.asarray(_SIGNS[self.sign](values, limit))


@dataclass(slots=True)
class Filtered:
    """Rows within bounds.

    rows: empty where they were written to a file. kept: bool of each row that was read. failed: how
    many rows break each bound. unmeasured: how many it could not be measured of. values: of each
    measure.
    """

    rows: list[Row]
    kept: Array
    failed: dict[str, int] = field(default_factory=dict)
    unmeasured: dict[str, int] = field(default_factory=dict)
    values: dict[str, Array] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{int(self.kept.sum()):,} of {len(self.kept):,} rows are within all bounds"]
        for text, number in self.failed.items():
            without = self.unmeasured[text]
            note = f", {without:,} could not be measured" if without else ""
            lines.append(f"  {text:<32} {number:,} break it{note}")
        return "\n".join(lines)


def filter_rows(
    data: Files,
    where: str | Sequence[str],
    *,
    model: ModelLike | None = None,
    num_rows: int | None = None,
    embeddings: Literal["words", "static"] = "words",
    unmeasured: Literal["keep", "drop"] = "keep",
    max_length: int = 1024,
    output: str | Path | None = None,
    force: bool = False,
) -> Filtered:
    """Rows of which every measure is within its bound.

        pt.filter_rows("train.jsonl", ["tokens<=2048", "repetition<0.2", "ifd<1"],
                       model="embedded", output="good.jsonl")

    `posttrain ls qualities` lists the measures; pt.quality.NAME is one. With `output`, what a model
    says of rows is written beside it while it is computed (NAME.measures.jsonl), so that an
    interrupted call goes on where it was; the file goes away at the end.

    Args:
        data: rows, a file, or several files one after the other. They are read twice.
        where: bounds, such as "ifd<1", "language:code=de>0.5", or "perplexity<p95": below the 95th
            percentile of the rows' own values.
        model: for measures such as perplexity, ifd and ask_llm, and for tokens.
        num_rows: rows to keep at most: of those within the bounds, the ones that cover the data
            best (greedy k-centre over embeddings).
        embeddings: of measures of diversity: hashed "words", or "static" ones of a package.
        unmeasured: what becomes of rows of which a measure is NaN.
        max_length: tokens of a row that the model reads.
        output: a .jsonl file for the rows, in place of a list.
        force: replace `output` if it exists.

    Raises:
        ConfigError: no such measure, a bound that cannot be read, or a model is needed; before
            anything is read. DataError: as `rows_of`.
    """
    bounds = [Bound.of(text) for text in ([where] if isinstance(where, str) else where)]
    if not bounds and num_rows is None:
        raise ConfigError("where: give at least one bound, such as 'tokens<=2048'")
    if num_rows is not None and num_rows < 1:
        raise ConfigError(f"num_rows: {num_rows} must be at least 1")
    components: list[Component] = []
    for bound in bounds:
        if bound.component not in components:
            components.append(bound.component)
    measures = Measures.of(components, model_of(model), embeddings, max_length)
    place = check_output(output, force=force) if output is not None else None
    if isinstance(data, Iterator):
        data = list(data)
    cache = place.with_suffix(".measures.jsonl") if place is not None else None
    values = measured(row_texts(data), measures, cache=cache)
    number = sum(1 for _ in row_texts(data)) if not bounds else len(next(iter(values.values())))
    result = Filtered([], np.ones(number, dtype=bool), values=values)
    columns = list(values.values())
    for bound in bounds:
        column = columns[components.index(bound.component)]
        holds, missing = bound.holds(column), np.isnan(column)
        result.failed[bound.text] = int((~holds & ~missing).sum())
        result.unmeasured[bound.text] = int(missing.sum())
        result.kept &= holds | (missing & (unmeasured == "keep"))
    if num_rows is not None:
        _cover(result.kept, data, num_rows, embeddings)
    if place is None:
        result.rows = list(kept_rows(data, result.kept))
    else:
        write_rows(place, kept_rows(data, result.kept))
        if cache is not None:
            cache.unlink(missing_ok=True)
    return result


def _cover(kept: Array, data: Files, num_rows: int, embeddings: Embeddings) -> None:
    """Leave `num_rows` of the kept rows, those that cover them best."""
    from posttrain.curation.row_vectors import check_embeddings, row_vectors
    from posttrain.qualities.diversity import k_centre_order

    check_embeddings(embeddings)
    places = np.flatnonzero(kept)
    if len(places) <= num_rows:
        return
    texts = [text.text for text, stays in zip(row_texts(data), kept, strict=True) if stays]
    order = k_centre_order(row_vectors(texts, embeddings), num_rows)
    kept[:] = False
    kept[places[order]] = True


def row_texts(data: Files) -> Iterator[RowText]:
    """The text of each row; the format is found part by part."""
    for part in parts_of(data):
        for _, text in RowTexts()(stream_of(part)):
            yield text
