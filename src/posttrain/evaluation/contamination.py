"""Whether the items of an evaluation stand in the rows that a model was trained on.

    gram_n(t) = the set of runs of n words of t, normalised;  share(item) = |gram(item) in training|
                / |gram(item)|;  an item is contaminated where share >= min_share

Items shorter than n words are compared as a whole, from `min_words` on. Words are compared without
case, punctuation and accents' composition, so that a reformatted copy is found; a paraphrase is
not. Runs of 13 words follow Brown et al., arXiv 2005.14165, appendix C.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from posttrain.config import DataLike
from posttrain.data.row_texts import text_of
from posttrain.data.rows import stream_of
from posttrain.errors import ConfigError
from posttrain.types import Example, Task, plain_text

Unit = Literal["words", "characters"]

_WORD = re.compile(r"\w+", re.UNICODE)
_SHOWN = 200  # characters of a text in a report


@dataclass(frozen=True, slots=True)
class Hit:
    """An item of an evaluation that stands in training rows.

    item: its place, from 0. id: its name, where it has one. share: of its runs of words that the
    rows hold. row: place of the row that holds most of them. text, row_text: their beginnings.
    rows: places of the rows that hold at least min_share of them by themselves, or `row` alone
    where only several rows together do.
    """

    item: int
    id: str
    share: float
    row: int
    text: str
    row_text: str
    rows: tuple[int, ...] = ()


@dataclass(slots=True)
class Contamination:
    """What a check found. `print` shows counts and the first hits.

    num_items: of the evaluation; num_short: those of them too short to be compared. num_rows: of
    the training data. hits: contaminated items, in their order.
    """

    num_items: int
    num_rows: int
    num_short: int = 0
    hits: list[Hit] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Share of the items that could be compared and are contaminated; 0 without any."""
        return len(self.hits) / max(self.num_items - self.num_short, 1)

    @property
    def clean(self) -> list[int]:
        """Places of the items that are not contaminated, those too short among them."""
        hit = {h.item for h in self.hits}
        return [place for place in range(self.num_items) if place not in hit]

    def __str__(self) -> str:
        short = f", {self.num_short} too short to compare" if self.num_short else ""
        lines = [
            f"{len(self.hits)} of {self.num_items} items stand in {self.num_rows} training rows "
            f"({self.rate:.1%}{short})"
        ]
        for hit in self.hits[:5]:
            name = hit.id or f"item {hit.item}"
            lines.append(f"  {name} in row {hit.row} ({hit.share:.0%}): {hit.text[:70]!r}")
        if len(self.hits) > 5:
            lines.append(f"  and {len(self.hits) - 5} more")
        return "\n".join(lines)


def contamination(
    items: Task | DataLike | Sequence[Example],
    rows: DataLike,
    *,
    unit: Literal["words", "characters"] = "words",
    n: int = 13,
    min_share: float = 0.5,
    min_words: int = 5,
    columns: Sequence[str] | None = None,
) -> Contamination:
    """Items of an evaluation that training rows hold.

        report = contamination(task, "train.jsonl")
        print(report); task.examples[i] for i in report.clean

    Only the prompts of examples are compared: an answer such as "4" stands everywhere. The rows are
    read one after the other, and may exceed memory; what is held are the runs of the items.

    Args:
        items: a task, examples, or rows of the evaluation (all their text).
        rows: of the training: a path, a hub id, a list of dictionaries, a `datasets.Dataset`.
        unit: runs of n words, or of n characters (for languages without spaces; 50 is usual).
        n: words or characters of a run. An item with fewer is looked for as a whole.
        min_share: share of an item's runs from which on it counts as contaminated.
        min_words: items with fewer words are not compared (num_short): they stand in any text.
        columns: of rows of the evaluation, those to compare; None takes what they ask (question,
            problem, prompt, or instruction with input), or all text where they have none of these.

    Raises:
        ConfigError: a number out of range, or no column of the names given. DataError: as
            `rows_of`.
    """
    if n < 1 or min_words < 1 or not 0 < min_share <= 1:
        raise ConfigError(
            f"contamination: n is {n}, min_words {min_words} and min_share {min_share}; n and "
            "min_words must be at least 1, min_share above 0 and at most 1"
        )
    texts, names = _texts_of(items, columns)
    index = _Index(texts, unit, n, min_words, min_share)
    num_rows = 0
    row_texts: dict[int, str] = {}
    for number, row in enumerate(stream_of(rows)):
        num_rows += 1
        text = text_of(row)
        if index.read(number, text):
            row_texts[number] = text[:_SHOWN]
    result = Contamination(len(texts), num_rows, index.num_short)
    for item, (share, best) in index.shares().items():
        if share >= min_share:
            text = texts[item][:_SHOWN]
            holding = tuple(index.holding.get(item, [best]))
            result.hits.append(Hit(item, names[item], share, best, text, row_texts[best], holding))
    return result


class _Index:
    """The runs of the items, and which of them were seen."""

    def __init__(
        self, texts: Sequence[str], unit: Unit, n: int, min_words: int, min_share: float
    ) -> None:
        self._min_share = min_share
        self.holding: dict[int, list[int]] = {}
        self._split: Callable[[str], Sequence[str]] = words_of if unit == "words" else characters_of
        self._runs: dict[int, set[str]] = {}
        self._owners: dict[str, list[int]] = {}
        self._sizes: set[int] = set()
        self._seen: dict[int, set[str]] = {}
        self._best: dict[int, tuple[int, int]] = {}
        for place, text in enumerate(texts):
            units = self._split(text)
            if len(words_of(text)) < min_words and (unit == "words" or len(units) < n):
                continue
            size = min(n, len(units))
            self._sizes.add(size)
            self._runs[place] = set(grams(units, size))
            for run in self._runs[place]:
                self._owners.setdefault(run, []).append(place)
        self.num_short = len(texts) - len(self._runs)

    def read(self, number: int, text: str) -> bool:
        """Note the runs of a row; whether it is the best row of any item so far."""
        units = self._split(text)
        counts: dict[int, set[str]] = {}
        for size in self._sizes:
            for run in grams(units, size):
                for place in self._owners.get(run, ()):
                    counts.setdefault(place, set()).add(run)
        is_best = False
        for place, runs in counts.items():
            self._seen.setdefault(place, set()).update(runs)
            if len(runs) >= self._min_share * len(self._runs[place]):
                self.holding.setdefault(place, []).append(number)
            if len(runs) > self._best.get(place, (0, 0))[0]:
                self._best[place] = (len(runs), number)
                is_best = True
        return is_best

    def shares(self) -> dict[int, tuple[float, int]]:
        """(share of the runs seen, row that holds most of them) of each item with any."""
        return {
            place: (len(self._seen[place]) / len(self._runs[place]), self._best[place][1])
            for place in sorted(self._seen)
        }


def words_of(text: str) -> list[str]:
    """Words without case and punctuation.

    >>> words_of("Tom's 3 apples,\\n\\nTWO pears!")
    ['tom', 's', '3', 'apples', 'two', 'pears']
    """
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def characters_of(text: str) -> list[str]:
    """The letters and digits of a text, without case and spaces.

    >>> "".join(characters_of("A b, 3"))
    'ab3'
    """
    return list("".join(words_of(text)))


def grams(units: Sequence[str], n: int) -> Iterator[str]:
    """Runs of n units, each as one text."""
    for start in range(len(units) - n + 1):
        yield " ".join(units[start : start + n])


_ASKED = (("question",), ("problem",), ("prompt",), ("instruction", "input"))
"""Columns that hold what an item asks; the first that a row has count."""


def _asked(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a row asks, without its answer; all of a row that has no such column.

    A long answer would hide a question that is there word for word.
    """
    for names in _ASKED:
        if isinstance(row.get(names[0]), str) and row[names[0]].strip():
            return {name: row[name] for name in names if name in row}
    return row


def _texts_of(
    items: Task | DataLike | Sequence[Example], columns: Sequence[str] | None
) -> tuple[list[str], list[str]]:
    """The texts that are looked for, and their names."""
    examples = items.examples if isinstance(items, Task) else items
    if isinstance(examples, list | tuple) and examples and isinstance(examples[0], Example):
        return [plain_text(e.prompt) for e in examples], [e.id for e in examples]
    texts = []
    for row in stream_of(items):  # type: ignore[arg-type]
        part = _asked(row) if columns is None else {k: row[k] for k in columns if k in row}
        if not part:
            raise ConfigError(
                f"contamination: a row has none of the columns {list(columns or ())}; it has "
                f"{', '.join(row)}"
            )
        texts.append(text_of(part))
    return texts, [""] * len(texts)
