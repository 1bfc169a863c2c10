"""How near domains are to each other, and orders of a stream that follow from it."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from posttrain.data.static_embeddings import sentence_vectors

Array = np.ndarray

_WORD = re.compile(r"[^\W\d_]{2,}")
_LEAST_COUNT = 3  # of a keyword in its domain


def domain_vectors(samples: Mapping[str, Sequence[str]], similarity: str) -> Array:
    """A vector for each domain from some of its documents, of length 1. [domains, size].

    Args:
        samples: documents by domain.
        similarity: "embeddings" is the mean of static sentence embeddings, which needs an extra;
            "words" are the weights of words (`word_weights`).
    """
    if similarity == "embeddings":
        vectors = np.stack([sentence_vectors(texts).mean(axis=0) for texts in samples.values()])
    else:
        weights = word_weights(samples)
        words = {word: i for i, word in enumerate(sorted({w for v in weights for w in v}))}
        vectors = np.zeros((len(weights), len(words)))
        for number, values in enumerate(weights):
            vectors[number, [words[w] for w in values]] = list(values.values())
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def word_weights(samples: Mapping[str, Sequence[str]]) -> list[dict[str, float]]:
    """TF-IDF of each domain's words, with domains as documents.

    weight(w, d) = (1 + log count(w, d)) * (1 + log((1 + D) / (1 + df(w))))
    (Salton and Buckley 1988, with smoothed inverse frequencies).
    """
    counts = [_counts(texts) for texts in samples.values()]
    frequency = Counter(word for count in counts for word in count)
    return [
        {
            word: (1 + math.log(number)) * (1 + math.log((1 + len(counts)) / (1 + frequency[word])))
            for word, number in count.items()
        }
        for count in counts
    ]


def keywords(samples: Mapping[str, Sequence[str]], num: int) -> dict[str, list[str]]:
    """The words that set each domain apart: those of the largest share here and in few others.

    score(w, d) = count(w, d) / count(d) * log(D / df(w)). Ties are in alphabetical order.
    """
    counts = {name: _counts(texts) for name, texts in samples.items()}
    frequency = Counter(word for count in counts.values() for word in count)
    found = {}
    for name, count in counts.items():
        scores = {
            word: number * math.log(len(counts) / frequency[word])
            for word, number in count.items()
            if number >= _LEAST_COUNT and frequency[word] < len(counts)
        }
        found[name] = sorted(scores, key=lambda word: (-scores[word], word))[:num]
    return found


def _counts(texts: Sequence[str]) -> Counter[str]:
    return Counter(word.lower() for text in texts for word in _WORD.findall(text))


def nearest_first(vectors: Array, first: int) -> list[int]:
    """Places in the order that goes to the nearest of the rest each time (cosine), from `first`.

    Ties go to the smaller place.
    """
    order, left = [first], [i for i in range(len(vectors)) if i != first]
    while left:
        near = vectors[left] @ vectors[order[-1]]
        order.append(left.pop(int(np.argmax(near))))
    return order


def swapped_halves(order: Sequence[int]) -> list[int]:
    """The second half of an order before the first."""
    middle = (len(order) + 1) // 2
    return [*order[middle:], *order[:middle]]


def mean_step(vectors: Array, order: Sequence[int]) -> float:
    """Mean cosine of neighbours in an order: how gradually it moves."""
    return float(np.mean([vectors[a] @ vectors[b] for a, b in itertools.pairwise(order)]))
