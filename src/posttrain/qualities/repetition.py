"""How much of a row's text repeats itself (Gopher's rules, Rae et al., arXiv 2112.11446, table A1).

The shares are of characters in words, white space left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from posttrain.registry import qualities

Array = np.ndarray

_TOP = {2: 0.20, 3: 0.18, 4: 0.16}
_REPEATED = {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
_LINES = 0.30


@qualities.register
def duplicate_lines(texts: Sequence[str]) -> Array:
    """Share of lines that repeat an earlier line; Gopher's rule is at most 0.3. [R] -> [R]."""
    return np.array([_duplicate_lines(text) for text in texts], dtype=np.float64)


@qualities.register
def top_ngram(texts: Sequence[str], *, n: int = 2) -> Array:
    """Share of the text in occurrences of its most frequent run of n words. [R] -> [R].

    A run that occurs once does not count. Gopher's rules: at most 0.20 for n = 2, 0.18 for 3, 0.16
    for 4.

    n: words of a run.
    """
    return np.array([_top_share(text.split(), n) for text in texts], dtype=np.float64)


@qualities.register
def repetition(texts: Sequence[str], *, n: int = 5) -> Array:
    """Share of the text in runs of n words that have occurred before. [R] -> [R].

    A character counts once, however many such runs it is in. Gopher's rules: at most 0.15 for
    n = 5, falling to 0.10 for n = 10.

    n: words of a run.
    """
    return np.array([_repeated_share(text.split(), n) for text in texts], dtype=np.float64)


@qualities.register
def gopher_repetition(texts: Sequence[str]) -> Array:
    """How many of Gopher's ten rules against repetition the text breaks. [R] -> [R].

    Lines, the most frequent 2-, 3- and 4-gram, and repeated 5- to 10-grams.
    """
    values = []
    for text in texts:
        words = text.split()
        broken = int(_duplicate_lines(text) > _LINES)
        broken += sum(_top_share(words, n) > bound for n, bound in _TOP.items())
        broken += sum(_repeated_share(words, n) > bound for n, bound in _REPEATED.items())
        values.append(float(broken))
    return np.array(values)


def _duplicate_lines(text: str) -> float:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return 1 - len(set(lines)) / len(lines) if lines else 0.0


def _top_share(words: list[str], n: int) -> float:
    runs = Counter(zip(*(words[i:] for i in range(n)), strict=False))
    if not runs:
        return 0.0
    most = max(runs.values())
    if most < 2:
        return 0.0
    longest = max(sum(map(len, run)) for run, count in runs.items() if count == most)
    return min(most * longest / max(sum(map(len, words)), 1), 1.0)


def _repeated_share(words: list[str], n: int) -> float:
    seen: set[tuple[str, ...]] = set()
    marked = [False] * len(words)
    for start in range(len(words) - n + 1):
        run = tuple(words[start : start + n])
        if run in seen:
            marked[start : start + n] = [True] * n
        seen.add(run)
    total = sum(map(len, words))
    return sum(len(word) for word, mark in zip(words, marked, strict=True) if mark) / max(total, 1)
