"""ROUGE-L between texts: how much of their words is in one common order (Lin 2004).

    R = LCS(a, b) / |b|,  P = LCS(a, b) / |a|,  F = 2 P R / (P + R)

LCS is found by a bit-parallel recurrence (Hyyrö 2004): one step of integer arithmetic per word of
one text, whatever the length of the other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_WORD = re.compile(r"\w+")


def words_of(text: str) -> list[str]:
    """Words in lower case."""
    return _WORD.findall(text.lower())


def rouge_l(first: str, second: str) -> float:
    """F of the longest common subsequence of words, from 0 to 1.

    >>> rouge_l("the cat sat here", "the cat was here")
    0.75
    """
    return RougeAgainst(words_of(first)).score(words_of(second))


class RougeAgainst:
    """Compares one text with many. words: of the one."""

    def __init__(self, words: Sequence[str]) -> None:
        self._length = len(words)
        self._all = (1 << len(words)) - 1
        self._places: dict[str, int] = {}
        for place, word in enumerate(words):
            self._places[word] = self._places.get(word, 0) | 1 << place

    def score(self, words: Sequence[str]) -> float:
        """F against another text's words."""
        common = self.common(words)
        return 2 * common / (self._length + len(words)) if common else 0.0

    def common(self, words: Sequence[str]) -> int:
        """Length of the longest common subsequence."""
        row = self._all  # a zero bit is a step of the subsequence
        for word in words:
            matches = row & self._places.get(word, 0)
            row = ((row + matches) | (row - matches)) & self._all
        return self._length - row.bit_count()

    def highest(self, others: Iterable[Sequence[str]]) -> float:
        """The highest F against any of some texts; 0 without any.

        Texts whose lengths alone rule out a higher value are not compared.
        """
        best = 0.0
        for words in others:
            bound = 2 * min(self._length, len(words)) / max(self._length + len(words), 1)
            if bound > best:
                best = max(best, self.score(words))
        return best
