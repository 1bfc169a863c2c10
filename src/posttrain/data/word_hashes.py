"""Words of many texts as numbers, and the runs of words (shingles) that texts are compared by.

A word is a run of letters, digits and underscores. Any other character that is not white space is
a word of its own, and so is each character of a script without spaces: "3 + 4" and "3 - 4" differ.
Case and accents' composition do not count. Everything is numpy, a few million characters at a time.

    word (characters c_1..c_L):  h = sum_i c_i p^i mod 2^64      (Karp and Rabin 1987)
    shingle of n words:          s = mix(sum_j h_j q^j mod 2^64)  to 32 bits
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Array = np.ndarray

_P = np.uint64(0x9E3779B97F4A7C15 | 1)
_Q = np.uint64(0xC2B2AE3D27D4EB4F)
_MIX = np.uint64(0xFF51AFD7ED558CCD)
_INVERSE_P = np.uint64(pow(int(_P), -1, 2**64))
_SPACE, _LETTER, _ALONE = 0, 1, 2
# Scripts that are written without spaces between words: kana, Han, Thai, Lao, Khmer, Burmese.
_WITHOUT_SPACES = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x3040, 0x30FF),
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)


@dataclass(frozen=True, slots=True)
class Words:
    """The words of texts: `hashes` [W] of all texts in turn, and where each text begins,
    `starts` [texts + 1].
    """

    hashes: Array
    starts: Array


@functools.cache
def _classes(bits: int) -> Array:
    """What each code point below 2^bits is: white space, part of a word, or a word of its own."""
    size = min(1 << bits, 0x110000)
    table = np.fromiter(map(_class_of, map(chr, range(size))), dtype=np.uint8, count=size)
    for first, last in _WITHOUT_SPACES:
        part = table[first : last + 1]
        part[part == _LETTER] = _ALONE
    table[0x0300:0x0370] = _LETTER  # combining accents stay in their word
    table[0] = _SPACE
    return table


def _class_of(character: str) -> int:
    if character.isalnum() or character == "_":
        return _LETTER
    return _SPACE if character.isspace() else _ALONE


def plain(text: str) -> str:
    """A text without case and with composed accents."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKC", text).casefold()


def words_of_texts(texts: Sequence[str]) -> Words:
    """The hashes of the words of each text."""
    if not texts:
        return Words(np.zeros(0, dtype=np.uint64), np.zeros(1, dtype=np.int64))
    pieces = [plain(text) for text in texts]
    ends = np.cumsum([len(piece) + 1 for piece in pieces], dtype=np.int64)
    joined = "\0".join([*pieces, ""])
    codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    kinds = _classes(max(int(codes.max()).bit_length(), 12))[codes]
    before = np.concatenate([[_SPACE], kinds[:-1]])
    begins = (kinds == _ALONE) | ((kinds == _LETTER) & (before != _LETTER))
    after = np.concatenate([kinds[1:], [_SPACE]])
    finishes = (kinds == _ALONE) | ((kinds == _LETTER) & (after != _LETTER))
    first, last = np.flatnonzero(begins), np.flatnonzero(finishes)
    powers, inverses = _powers(len(codes))
    with np.errstate(over="ignore"):
        sums = np.cumsum(codes.astype(np.uint64) * powers, dtype=np.uint64)
        below = np.where(first > 0, sums[first - 1], np.uint64(0))
        hashes = (sums[last] - below) * inverses[first]
    starts = np.searchsorted(first, np.concatenate([[0], ends]))
    return Words(hashes, starts.astype(np.int64))


@functools.lru_cache(maxsize=1)
def _all_powers(size: int) -> tuple[Array, Array]:
    with np.errstate(over="ignore"):
        both = []
        for base in (_P, _INVERSE_P):
            factors = np.full(size, base, dtype=np.uint64)
            factors[0] = 1
            both.append(np.multiply.accumulate(factors))
    return both[0], both[1]


def _powers(size: int) -> tuple[Array, Array]:
    """p^i and p^-i mod 2^64 for i below `size`; the longest table so far is held."""
    rounded = 1 << max(size - 1, 1).bit_length()
    powers, inverses = _all_powers(rounded)
    return powers[:size], inverses[:size]


def shingles(words: Words, n: int) -> Words:
    """The distinct runs of n words of each text, as 32-bit numbers in rising order per text.

    A text of fewer than n words has one shingle: all of it. A text without words has none.
    """
    lengths = np.diff(words.starts)
    counts = np.where(lengths >= n, lengths - n + 1, np.minimum(lengths, 1))
    owner = np.repeat(np.arange(len(counts)), counts)
    offset = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    place = words.starts[owner] + offset
    total = np.zeros(len(owner), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for j in range(n):
            # A short text ends before n words: what would lie behind its end counts nothing.
            inside = place + j < words.starts[owner + 1]
            at = np.minimum(place + j, max(len(words.hashes) - 1, 0))
            total = total * _Q + np.where(inside, words.hashes[at], np.uint64(0))
        total ^= total >> np.uint64(33)
        total *= _MIX
        total ^= total >> np.uint64(33)
    keys = (owner.astype(np.uint64) << np.uint64(32)) | (total & np.uint64(0xFFFFFFFF))
    keys.sort()
    keys = keys[np.concatenate([[True], keys[1:] != keys[:-1]])] if len(keys) else keys
    starts = np.searchsorted(keys >> np.uint64(32), np.arange(len(counts) + 1, dtype=np.uint64))
    return Words((keys & np.uint64(0xFFFFFFFF)).astype(np.uint32), starts.astype(np.int64))
