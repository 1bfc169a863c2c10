"""BM25 by the library, against the formula."""

from __future__ import annotations

import math

import pytest

from posttrain.errors import ConfigError
from posttrain.incontext.bm25 import BM25

pytest.importorskip("bm25s")

TEXTS = ["the cat sat", "the dog sat on the mat", "birds sing"]


def formula(query: str, text: str, k1: float, b: float) -> float:
    """Lucene's BM25: without the factor k1 + 1."""
    words, mean = text.split(), sum(len(t.split()) for t in TEXTS) / len(TEXTS)
    total = 0.0
    for word in query.split():
        frequency = sum(word in t.split() for t in TEXTS)
        if not frequency:
            continue
        idf = math.log(1 + (len(TEXTS) - frequency + 0.5) / (frequency + 0.5))
        count = words.count(word)
        total += idf * count / (count + k1 * (1 - b + b * len(words) / mean))
    return total


@pytest.mark.parametrize(("k1", "b"), [(1.5, 0.75), (0.9, 0.0)])
def test_scores_are_those_of_the_formula(k1: float, b: float) -> None:
    index = BM25(TEXTS, k1=k1, b=b)
    for query in ("the cat", "sat mat dog", "birds"):
        wanted = [formula(query, text, k1, b) for text in TEXTS]
        assert index.scores(query).tolist() == pytest.approx(wanted, rel=1e-5)


def test_a_query_without_known_words_scores_nothing() -> None:
    assert BM25(TEXTS).scores("quantum!").tolist() == [0.0, 0.0, 0.0]
    assert BM25(["", "a b"]).scores("b").tolist()[0] == 0.0


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="k1"):
        BM25(TEXTS, k1=-1.0)
