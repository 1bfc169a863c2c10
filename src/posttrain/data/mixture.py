"""Rows of several sources in one stream: how many of each, in which order, in one shape.

    rate_m = w_m                                          weights are given
    rate_m = min(e_m, K)^(1/T) / sum_j min(e_j, K)^(1/T)   else

e_m: rows of source m, K: `max_examples`, T: `temperature` (examples-proportional mixing with an
artificial limit, T5, Raffel et al., arXiv 1910.10683, section 3.5.2). T = 1 is proportional; the
larger T, the nearer to equal shares.

Sources are read twice, row by row: to count, and to mix. What is held are 8 bytes per row, and the
rows of a buffer.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from posttrain.data.formats import detect_format, normalise
from posttrain.data.item import Item, Row
from posttrain.errors import ConfigError, DataError
from posttrain.types import Message, Text

Array = np.ndarray
Reader = Callable[[], Iterator[Row]]
"""Reads a source from its beginning."""

BUFFER = 8192
"""Rows that are shuffled among each other while they stream."""

_DETECTED = 50


def rates(
    sizes: Sequence[int],
    *,
    weights: Sequence[float] | None = None,
    temperature: float = 1.0,
    max_examples: int | None = None,
) -> Array:
    """The share of each source in the mixture. [sources], sums to 1.

    >>> rates([100, 900], max_examples=300).tolist()
    [0.25, 0.75]

    Raises:
        ConfigError: a weight or the temperature is out of range, or all weights are 0.
    """
    if not 0 < temperature < math.inf or (max_examples is not None and max_examples < 1):
        raise ConfigError(
            f"temperature {temperature} must be above 0, and max_examples {max_examples} at least 1"
        )
    if weights is None:
        sizes_seen = np.minimum(np.array(sizes, dtype=np.float64), max_examples or math.inf)
        shares = sizes_seen ** (1 / temperature)
    else:
        shares = np.array(weights, dtype=np.float64)
        if len(shares) != len(sizes) or not np.isfinite(shares).all() or (shares < 0).any():
            raise ConfigError(
                f"weights: {list(weights)} must be one number of 0 or above for each of "
                f"{len(sizes)} sources"
            )
    if shares.sum() <= 0:
        raise ConfigError("weights: all are 0, so there is nothing to mix")
    return shares / shares.sum()


def counts(sizes: Sequence[int], shares: Array, num_rows: int | None) -> list[int]:
    """Rows of each source in the mixture.

    Without `num_rows`, as many as no source has to repeat itself for. Fractions are given to the
    largest remainders (Hamilton's rule), so that the counts add up.
    """
    if num_rows is None:
        used = shares > 0
        num_rows = int(np.floor((np.array(sizes)[used] / shares[used]).min() + 1e-9))
    exact = shares * num_rows
    whole = np.floor(exact + 1e-9).astype(np.int64)
    remainders = exact - whole
    for place in np.lexsort((np.arange(len(whole)), -remainders))[: num_rows - int(whole.sum())]:
        whole[place] += 1
    return [int(n) for n in whole]


def mixed(
    readers: Sequence[Reader], numbers: Sequence[int], sizes: Sequence[int], *, seed: int = 0
) -> Iterator[tuple[int, Row]]:
    """Rows of all sources with the place of their source, in a random order.

    A source gives each of its rows floor(n / e) times and a random choice once more. At any place
    of the stream the shares of the sources are near those of the whole, and rows are shuffled
    within a buffer. The stream is a function of the sources and the seed.
    """
    draw = np.random.default_rng((seed, 17))
    streams = [
        _repeated(reader, number, size, np.random.default_rng((seed, 18, place)))
        for place, (reader, number, size) in enumerate(zip(readers, numbers, sizes, strict=True))
    ]
    left = np.array(numbers, dtype=np.int64)
    buffer: list[tuple[int, Row]] = []
    while left.sum():
        source = int(np.searchsorted(np.cumsum(left), draw.integers(left.sum()), side="right"))
        left[source] -= 1
        buffer.append((source, next(streams[source])))
        if len(buffer) > BUFFER:
            yield _taken(buffer, int(draw.integers(len(buffer))))
    while buffer:
        yield _taken(buffer, int(draw.integers(len(buffer))))


def _taken(buffer: list[tuple[int, Row]], place: int) -> tuple[int, Row]:
    buffer[place], buffer[-1] = buffer[-1], buffer[place]
    return buffer.pop()


def _repeated(reader: Reader, number: int, size: int, draw: np.random.Generator) -> Iterator[Row]:
    """`number` rows of a source: whole passes, and then a random choice of one more."""
    passes, rest = divmod(number, size)
    for _ in range(passes):
        yield from reader()
    if rest:
        chosen = np.zeros(size, dtype=bool)
        chosen[draw.choice(size, rest, replace=False)] = True
        yield from itertools.compress(reader(), chosen)


def size_of(reader: Reader, name: str) -> int:
    """Rows of a source.

    Raises:
        DataError: there is none.
    """
    size = sum(1 for _ in reader())
    if not size:
        raise DataError(f"{name} holds no rows, so there is nothing to mix")
    return size


# -- one shape


def in_one_format(readers: Sequence[Reader], names: Sequence[str]) -> list[Reader]:
    """Readers that give rows of one format: those that are given, where their formats agree.

    Otherwise conversations of any format become `messages`, pairs of texts prompt and completion,
    and preferences prompt, chosen and rejected.

    Raises:
        DataError: the formats have no common one.
    """
    forms = [detect_format(list(itertools.islice(reader(), _DETECTED))) for reader in readers]
    if len({form.name for form in forms}) == 1:
        return list(readers)
    kinds = []
    for reader, form, name in zip(readers, forms, names, strict=True):
        first = normalise(next(reader()), form, f"{name} 0")
        kinds.append(_kind(first))
    if len(set(kinds)) > 1 or kinds[0] == "other":
        shown = ", ".join(f"{name}: {form.name}" for name, form in zip(names, forms, strict=True))
        raise DataError(
            f"sources of these formats cannot be mixed: {shown}. Mix conversations with "
            "conversations, pairs of texts with pairs of texts, preferences with preferences"
        )
    return [
        _shaped(reader, form, name, kinds[0])
        for reader, form, name in zip(readers, forms, names, strict=True)
    ]


def _shaped(reader: Reader, form: object, name: str, kind: str) -> Reader:
    def read() -> Iterator[Row]:
        for number, row in enumerate(reader()):
            yield _in_shape(normalise(row, form, f"{name} {number}"), kind)  # type: ignore[arg-type]

    return read


def _kind(item: Item) -> str:
    if item.chosen is not None:
        return "preference"
    if isinstance(item.completion, list):
        return "conversation"
    if isinstance(item.completion, str) and isinstance(item.prompt, str):
        return "pair"
    return "other"


def _in_shape(item: Item, kind: str) -> Row:
    others = {k: v for k, v in item.columns.items() if k == "weight" and v is not None}
    if kind == "preference":
        prompt = {} if item.prompt is None else {"prompt": item.prompt}
        return {**others, **prompt, "chosen": item.chosen, "rejected": item.rejected}
    if kind == "pair":
        return {**others, "prompt": item.prompt, "completion": item.completion}
    tools = {"tools": item.tools} if item.tools else {}
    before = [{**m, "train": False} if m["role"] == "assistant" else m for m in _list(item.prompt)]
    return {**others, **tools, "messages": [*before, *_list(item.completion)]}


def _list(text: Text | None) -> list[Message]:
    return list(text) if isinstance(text, list) else []


# -- order


def easiest_first(rows: Iterable[Row], difficulty: Sequence[float]) -> Iterator[Row]:
    """Rows by rising difficulty; those without one (NaN) are last. Equal ones keep their order.

    The rows are held.
    """
    held = list(rows)
    values = np.asarray(difficulty, dtype=np.float64)
    if len(held) != len(values):
        raise DataError(f"{len(values)} difficulties of {len(held)} rows")
    for place in np.argsort(values, kind="stable"):
        yield held[place]
