"""Okapi BM25 over texts, by the library bm25s.

    score(q, d) = sum_w idf(w) tf(w, d) (k1 + 1) / (tf(w, d) + k1 (1 - b + b |d| / mean |d|))

(Robertson and Zaragoza 2009; bm25s drops the constant factor k1 + 1, as Lucene does.)
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from posttrain.errors import ConfigError, MissingDependency
from posttrain.incontext.features import words

Numbers = NDArray[np.float64]


class BM25:
    """An index of texts.

    Args:
        k1: how soon further occurrences of a word count less. b: how much long texts are
            discounted, from 0 to 1.

    Raises:
        MissingDependency: the extra is not installed.
        ConfigError: k1 or b is out of range.
    """

    def __init__(self, texts: Sequence[str], *, k1: float = 1.5, b: float = 0.75) -> None:
        if k1 < 0 or not 0 <= b <= 1:
            raise ConfigError(f"bm25: k1 is {k1} and b is {b}; k1 >= 0 and 0 <= b <= 1")
        self._library = _library()
        self._index = self._library.BM25(k1=k1, b=b, backend="numpy")
        # The library refuses an index without any word.
        tokens = [words(text) or [""] for text in texts]
        self._index.index(tokens, show_progress=False)
        self._known = {word for text in tokens for word in text}

    def scores(self, query: str) -> Numbers:
        """The score of each text, 0 for one that shares no word with the query."""
        asked = [word for word in words(query) if word in self._known]
        if not asked:
            return np.zeros(self._index.scores["num_docs"])
        return np.asarray(self._index.get_scores(asked), dtype=np.float64)


def _library() -> Any:
    try:
        import bm25s
    except ImportError as error:
        raise MissingDependency("bm25s", "retrieval") from error
    return bm25s


def check_installed() -> None:
    """Refuse a missing package before weights are loaded.

    Raises:
        MissingDependency: the extra is not installed.
    """
    if importlib.util.find_spec("bm25s") is None:
        _library()
