"""Rows to train on: where they are, and how they become sequences. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from posttrain.errors import ConfigError, nearest
from posttrain.typecheck import check, described


@described("DataSource")
@dataclass(frozen=True, slots=True)
class SourceConfig:
    """One of several sources of rows in a recipe.

    Attributes:
        path: a file, a folder, or the id of a hub data set.
        weight: share in the mixture against the weights of the others; None, which all have then,
            is by the number of rows.
        limit: largest number of rows that are read.
        subset: configuration of a hub data set.
        split: of a hub data set; in a folder, the files whose names contain it.
        columns: new names of columns, {our name: name in the file}.
    """

    path: str
    weight: float | None = None
    limit: int | None = None
    subset: str | None = None
    split: str = "train"
    columns: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.weight is not None and not self.weight >= 0:
            raise ConfigError(f"data.sources: weight {self.weight} must be 0 or above")

    @staticmethod
    def from_short(text: str) -> dict[str, Any]:
        return {"path": text}


@described("Data")
@dataclass(frozen=True, slots=True)
class DataConfig:
    """Rows to train on: a file, a folder, a hub data set, or rows in memory (`DataConfig.of`).

    Attributes:
        path: a file, a folder, or the id of a hub data set.
        subset: configuration of a hub data set, or the name of a data set in a folder with a
            registry (LLaMA-Factory's dataset_info.json).
        split: of a hub data set; in a folder, the files whose names contain it.
        limit: largest number of rows.
        columns: new names of columns, {our name: name in the file}.
        train_on: which tokens are trained. "auto" is the completion or every assistant turn, and
            all of a plain text.
        document: what one document of a .txt file is: a "paragraph" (the lines between blank
            lines), a "line", or the whole "file". Tokens never attend across documents. A document
            ends with EOS, and begins with BOS if the tokenizer uses one.
        max_length: tokens per training sequence; None is 1024, or the model's context if that is
            shorter.
        truncation: what happens to longer rows. "auto" splits plain text into sequences of
            max_length, so that every token but a document's first is a target exactly once per
            epoch, and keeps the start of any other row. "keep_start" and "keep_end" cut, "drop"
            leaves the row out, "error" refuses it, "split" is for plain text alone. A later part
            of a document begins with the last token of the part before, as context.
        max_cut: largest share of rows that may be cut or dropped, and of tokens lost that way.
        max_masked: largest share of rows that may have no token left to train on, or nothing to
            compare.
        max_unusable: largest share of rows that may be skipped because a column is missing, empty
            or of the wrong type.
        rationale_weight: above 0, a row with a column rationale is learnt twice: the completion
            after "[label] " and the prompt, and the rationale after "[rationale] " and the prompt,
            whose tokens count this much. Methods sft and distill read it.
        rows: rows in memory, in place of a path: a list of dictionaries or a `datasets.Dataset`.
            Recipes have no such key.
        sources: several sources that are mixed, in place of a path. Their formats must agree, or be
            all conversations, pairs of texts, or preferences.
        temperature: of mixing by the number of rows: shares are min(rows, max_examples)^(1/T).
        max_examples: rows of one source that count for its share at most (T5's limit K).
        num_rows: rows of the mixture; None takes as many as no source repeats itself for.
        mixing_seed: of the choice and the order of the rows of a mixture.
        order: "shuffled" draws a new order for each epoch, "as_given" takes the rows as they are,
            as for a curriculum. Method sft reads it.
    """

    path: str = ""
    subset: str | None = None
    split: str = "train"
    limit: int | None = None
    columns: dict[str, str] = field(default_factory=dict)
    train_on: Literal["auto", "completion", "all_assistant", "last", "everything"] = "auto"
    document: Literal["paragraph", "line", "file"] = "paragraph"
    max_length: int | None = None
    truncation: Literal["auto", "split", "drop", "keep_start", "keep_end", "error"] = "auto"
    max_cut: float = 0.1
    max_masked: float = 0.1
    max_unusable: float = 0.1
    rationale_weight: float = 0.0
    rows: Any = field(default=None, repr=False, metadata={"recipe": False})
    sources: tuple[SourceConfig, ...] = ()
    temperature: float = 1.0
    max_examples: int | None = None
    num_rows: int | None = None
    mixing_seed: int = 0
    order: Literal["shuffled", "as_given"] = "shuffled"

    def __post_init__(self) -> None:
        self._check_sources()
        for name in ("max_cut", "max_unusable"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(
                    f"data.{name}: {getattr(self, name)} is not a share; it must be from 0 to 1"
                )
        if self.rationale_weight < 0:
            raise ConfigError(
                f"data.rationale_weight: {self.rationale_weight} is how much a token counts; it "
                "is not negative"
            )
        if self.rows is not None and self.subset is not None:
            raise ConfigError(
                f"data.subset: {self.subset!r} is of a hub data set, and these rows are in "
                "memory; leave it out"
            )

    def _check_sources(self) -> None:
        if self.sources:
            parts = check(list(self.sources), list[SourceConfig], "data.sources")
            object.__setattr__(self, "sources", tuple(parts))
            if self.path or self.rows is not None or self.subset or self.columns:
                raise ConfigError(
                    "data.sources: each source has its own path, subset and columns; leave those "
                    "of data out"
                )
            given = [source.weight is not None for source in self.sources]
            if any(given) and not all(given):
                raise ConfigError("data.sources: give a weight to every source, or to none")
            if self.num_rows is not None and self.num_rows < 1:
                raise ConfigError(f"data.num_rows: {self.num_rows} must be at least 1")
            return
        if not self.path and self.rows is None:
            raise ConfigError("data.path: say where the rows are, or give data.sources")
        for name, default in (("temperature", 1.0), ("max_examples", None), ("num_rows", None)):
            if getattr(self, name) != default:
                raise ConfigError(
                    f"data.{name}: {getattr(self, name)} is of mixtures; give data.sources, or "
                    "leave it out"
                )

    @classmethod
    def of(cls, data: DataLike, **settings: Any) -> DataConfig:
        """A path or rows in memory, with settings such as max_length.

        >>> DataConfig.of([{"text": "a"}], max_length=64).max_length
        64

        Args:
            data: a path, a hub id, a list of dictionaries, a `datasets.Dataset`, or a
                `DataConfig`, of which `settings` replace fields. An iterator is read at once.
        Raises:
            ConfigError: an unknown setting, or one that is out of range.
        """
        names = [f.name for f in fields(cls) if f.name not in ("path", "rows")]
        for name in settings:
            if name not in names:
                raise ConfigError(f"data.{name}: no such setting; {nearest(name, names)}")
        if isinstance(data, cls):
            return replace(data, **settings) if settings else data
        if isinstance(data, str | Path):
            return cls(str(data), **settings)
        rows = list(data) if isinstance(data, Iterator) else data
        return cls("rows in memory", rows=rows, **settings)

    @staticmethod
    def from_short(text: str) -> dict[str, Any]:
        return {"path": text}


DataLike = DataConfig | str | Path | Iterable[Mapping[str, Any]]
"""What holds rows in Python; a `datasets.Dataset` is an iterable of mappings."""
