"""Rows that are copies of earlier rows, equal or nearly so.

    J(a, b) = |S(a) & S(b)| / |S(a) | S(b)|      S: distinct runs of n words (shingles)

MinHash (Broder 1997): P(min h(S(a)) = min h(S(b))) = J for a random order h. `bands` groups of
`rows_per_band` minima are compared as wholes (LSH, Indyk and Motwani 1998), so that a pair of
similarity s is looked at with probability

    P(s) = 1 - (1 - s^rows_per_band)^bands        (`s_curve`)

and then compared by the shingles themselves. With 32 bands of 4: P(.5) = .87, P(.6) = .988,
P(.7) = .9998. What decides is J, so a pair below the threshold is never reported, but for the
error of sketches: of a text with more than 512 shingles its 512 smallest are held (bottom-k,
standard error of J below .022).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from posttrain.data.word_hashes import Words, plain, shingles, words_of_texts
from posttrain.errors import ConfigError

Array = np.ndarray

_SKETCH = 512  # shingles held of a text
_MAX_CHARACTERS = 2**20  # of a text that are compared
_PART = 2**20  # characters hashed at a time
_PAIRS = 2**15  # pairs compared at a time
_ROUNDS = 16  # leaders that a bucket may have


@dataclass(slots=True)
class Duplicates:
    """Which rows are copies.

    first [rows]: the earlier row that a row copies, which is kept; -1 for one that is kept itself.
    similarity [rows]: to it, NaN for rows that are kept. exact [rows]: whether some earlier row has
    the same text but for case and white space.
    """

    first: Array
    similarity: Array
    exact: Array
    threshold: float
    num_compared: int = 0
    settings: dict[str, float] = field(default_factory=dict)

    @property
    def kept(self) -> Array:
        """Places of the rows that copy none, in order."""
        return np.flatnonzero(self.first < 0)

    @property
    def num_exact(self) -> int:
        """Rows whose text an earlier row has."""
        return int(self.exact.sum())

    @property
    def num_near(self) -> int:
        """Rows that are near an earlier row and not equal to it."""
        return int((self.first >= 0).sum()) - self.num_exact

    def clusters(self, num: int) -> list[tuple[int, list[int]]]:
        """The `num` rows with most copies, each with the places of its copies."""
        copied, counts = np.unique(self.first[self.first >= 0], return_counts=True)
        order = np.lexsort((copied, -counts))[:num]
        return [
            (int(copied[i]), [int(j) for j in np.flatnonzero(self.first == copied[i])])
            for i in order
        ]

    def __str__(self) -> str:
        total = len(self.first)
        return (
            f"{total:,} rows: {self.num_exact:,} copies of earlier rows, {self.num_near:,} near "
            f"copies (similarity at least {self.threshold:g}), {len(self.kept):,} kept"
        )


def s_curve(similarity: float | Array, bands: int, rows_per_band: int) -> float | Array:
    """Probability that a pair of a Jaccard similarity is looked at.

    >>> round(s_curve(0.7, 32, 4), 4)
    0.9998
    """
    return 1 - (1 - similarity**rows_per_band) ** bands


def find_duplicates(
    texts: Iterable[str],
    *,
    threshold: float = 0.7,
    n: int = 2,
    bands: int = 32,
    rows_per_band: int = 4,
    near: bool = True,
    seed: int = 0,
) -> Duplicates:
    """Texts that are copies of earlier texts.

    Texts are read once, one after the other. What is held of one is at most 2.2 kB, whatever its
    length: two hashes per band and up to 512 shingles. Texts are compared by their first million
    characters.

    Every row that is dropped has a row that is kept whose similarity is at least the threshold.

    Args:
        texts: of the rows.
        threshold: least Jaccard similarity of near copies.
        n: words of a shingle.
        bands, rows_per_band: of the minima; their product is the number of permutations.
        near: look for near copies too; False finds equal texts alone.
        seed: of the permutations.
    Raises:
        ConfigError: a number out of range.
    """
    _check(threshold, n, bands, rows_per_band)
    held = _Held(n, bands, rows_per_band, seed, near)
    for part in _parts(texts):
        held.add(part)
    result = Duplicates(
        np.full(held.size, -1, dtype=np.int64),
        np.full(held.size, np.nan),
        np.zeros(held.size, dtype=bool),
        threshold,
        settings={"n": n, "bands": bands, "rows_per_band": rows_per_band},
    )
    _mark_exact(result, np.concatenate([*held.digests, np.zeros(0, dtype=np.uint64)]))
    if near and held.size:
        _mark_near(result, held, threshold)
    return result


def _check(threshold: float, n: int, bands: int, rows_per_band: int) -> None:
    if not 0 < threshold <= 1:
        raise ConfigError(
            f"threshold: {threshold} is a share of common shingles; it must be above 0, at most 1"
        )
    for name, value in (("n", n), ("bands", bands), ("rows_per_band", rows_per_band)):
        if value < 1:
            raise ConfigError(f"{name}: {value} must be at least 1")


def _parts(texts: Iterable[str]) -> Iterator[list[str]]:
    """Texts many at a time, fewer where they are long."""
    part: list[str] = []
    size = 0
    for text in texts:
        part.append(text[:_MAX_CHARACTERS])
        size += len(part[-1])
        if size >= _PART:
            yield part
            part, size = [], 0
    if part:
        yield part


class _Held:
    """What is held of the texts: digests, keys of the bands, sketches."""

    def __init__(self, n: int, bands: int, rows_per_band: int, seed: int, near: bool) -> None:
        draw = np.random.default_rng((seed, 19))
        self.n, self.bands, self.rows_per_band, self.near = n, bands, rows_per_band, near
        num = bands * rows_per_band
        self._factors = draw.integers(0, 2**31, num, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
        self._shifts = draw.integers(0, 2**32, num, dtype=np.uint32)
        self.digests: list[Array] = []
        self._keys: list[Array] = []
        self._sketches: list[Array] = []
        self._sizes: list[Array] = []
        self.size = 0

    def add(self, texts: Sequence[str]) -> None:
        """Hold what is compared of some texts."""
        self.size += len(texts)
        self.digests.append(np.array([_digest(text) for text in texts], dtype=np.uint64))
        if not self.near:
            return
        runs = shingles(words_of_texts(texts), self.n)
        self._keys.append(self._band_keys(runs))
        values, sizes = _smallest(runs, _SKETCH)
        self._sketches.append(values)
        self._sizes.append(sizes)

    def _band_keys(self, runs: Words) -> Array:
        """A number per text and band [texts, bands]; equal minima give equal numbers."""
        num_texts = len(runs.starts) - 1
        filled = np.flatnonzero(np.diff(runs.starts))
        minima = np.full((num_texts, len(self._factors)), 0xFFFFFFFF, dtype=np.uint32)
        permuted = np.empty_like(runs.hashes)
        # A permutation at a time: reduceat is ten times slower over the rows of a matrix.
        for number, (factor, shift) in enumerate(zip(self._factors, self._shifts, strict=True)):
            np.multiply(runs.hashes, factor, out=permuted)
            permuted += shift
            minima[filled, number] = np.minimum.reduceat(permuted, runs.starts[filled])
        keys = np.zeros((num_texts, self.bands), dtype=np.uint32)
        with np.errstate(over="ignore"):
            for j in range(self.rows_per_band):
                keys = (keys ^ minima[:, j :: self.rows_per_band]) * np.uint32(0x9E3779B1)
                keys ^= keys >> np.uint32(15)
        return keys

    def keys(self) -> Array:
        """Of all texts [texts, bands]."""
        return np.concatenate(self._keys)

    def sketches(self) -> Words:
        """The held shingles of all texts."""
        sizes = np.concatenate(self._sizes)
        starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        return Words(np.concatenate(self._sketches), starts)


def _digest(text: str) -> int:
    """Of a text without case, its white space as single spaces."""
    data = " ".join(plain(text).split()).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _smallest(runs: Words, num: int) -> tuple[Array, Array]:
    """The `num` smallest shingles of each text, and how many there are."""
    sizes = np.diff(runs.starts)
    if not len(sizes) or sizes.max() <= num:
        return runs.hashes, sizes
    rank = np.arange(len(runs.hashes)) - np.repeat(runs.starts[:-1], sizes)
    return runs.hashes[rank < num], np.minimum(sizes, num)


def _mark_exact(result: Duplicates, digests: Array) -> None:
    _, first, inverse = np.unique(digests, return_index=True, return_inverse=True)
    earliest = first[inverse]
    copies = np.flatnonzero(earliest != np.arange(len(digests)))
    result.first[copies] = earliest[copies]
    result.similarity[copies] = 1.0
    result.exact[copies] = True


def _mark_near(result: Duplicates, held: _Held, threshold: float) -> None:
    """Mark rows that are near an earlier row that is kept."""
    sketches = held.sketches()
    empty = np.diff(sketches.starts) == 0
    candidates = np.flatnonzero((result.first < 0) & ~empty)
    keys = held.keys()[candidates]
    near: list[tuple[Array, Array, Array]] = []
    for band in range(keys.shape[1]):
        for one, other, share in _bucket_pairs(keys[:, band], candidates, sketches, threshold):
            result.num_compared += len(one)
            above = share >= threshold  # the others are not held
            near.append((one[above], other[above], share[above]))
    if not near:
        return
    earlier_rows, later_rows, similarity = (np.concatenate(part) for part in zip(*near))
    # By the later row, the most similar earlier one first.
    order = np.lexsort((earlier_rows, -similarity, later_rows))
    columns = (earlier_rows, later_rows, similarity)
    for earlier, later, share in zip(*(column[order].tolist() for column in columns)):
        if result.first[later] < 0 and result.first[earlier] < 0:
            result.first[later], result.similarity[later] = earlier, share
    # A row whose equal was dropped as a near copy is near the row that was kept for it.
    moved = np.flatnonzero((result.first >= 0) & (result.first[result.first] >= 0))
    through = result.first[moved]
    result.first[moved] = result.first[through]
    result.similarity[moved] = result.similarity[through]


def _bucket_pairs(
    keys: Array, rows: Array, sketches: Words, threshold: float
) -> Iterator[tuple[Array, Array, Array]]:
    """Pairs (earlier, later) of rows with equal keys, and their similarities.

    The first row of a bucket is compared with all others. Those that are near it leave, and the
    first of the rest is the next leader. So a bucket of m rows costs m comparisons a round, not
    m^2, and rows that only share common words cost at most `_ROUNDS` each.
    """
    order = np.lexsort((rows, keys))
    keys, rows = keys[order], rows[order]
    for _ in range(_ROUNDS):
        if len(rows) < 2:
            return
        starts = np.concatenate([[True], keys[1:] != keys[:-1]])
        bucket = np.cumsum(starts) - 1
        leaders = rows[starts][bucket]
        others = ~starts
        if not others.any():
            return
        one, other = leaders[others], rows[others]
        share = _similarities(sketches, one, other)
        yield one, other, share
        stay = np.zeros(len(rows), dtype=bool)
        stay[others] = share < threshold
        keys, rows = keys[stay], rows[stay]


def _similarities(sketches: Words, one: Array, other: Array) -> Array:
    """Jaccard similarity of pairs of texts by their sketches. [pairs]."""
    return np.concatenate(
        [
            _compared(sketches, one[i : i + _PAIRS], other[i : i + _PAIRS])
            for i in range(0, len(one), _PAIRS)
        ]
    )


def _compared(sketches: Words, one: Array, other: Array) -> Array:
    """As `_similarities`, of a number of pairs that fits in memory.

    bottom-k: of the k smallest shingles of the union, the share that both texts have.
    """
    pieces = []
    for rows in (one, other):
        sizes = sketches.starts[rows + 1] - sketches.starts[rows]
        pair = np.repeat(np.arange(len(rows)), sizes)
        place = np.arange(len(pair)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        place += np.repeat(sketches.starts[rows], sizes)
        pieces.append((pair.astype(np.uint64) << np.uint64(32)) | sketches.hashes[place])
    merged = np.sort(np.concatenate(pieces), kind="stable")
    distinct = np.concatenate([[True], merged[1:] != merged[:-1]])
    common = np.concatenate([merged[1:] == merged[:-1], [False]])
    pair = (merged >> np.uint64(32)).astype(np.int64)
    rank = np.cumsum(distinct) - 1
    begin = np.zeros(len(one), dtype=np.int64)
    at = np.flatnonzero(np.concatenate([[True], pair[1:] != pair[:-1]]))
    begin[pair[at]] = rank[at]
    inside = distinct & (rank - begin[pair] < _SKETCH)
    union = np.bincount(pair[inside], minlength=len(one))
    return np.bincount(pair[inside & common], minlength=len(one)) / np.maximum(union, 1)
