"""Embeddings of rows: hashed words, or static embeddings of a package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from posttrain.data.static_embeddings import check_installed, sentence_vectors
from posttrain.data.word_hashes import words_of_texts
from posttrain.errors import ConfigError

Array = np.ndarray
Embeddings = Literal["words", "static"]

_SIZE = 256
_MAX_CHARACTERS = 20_000  # of a text that are embedded
_PART = 2048  # rows embedded at a time


def check_embeddings(kind: str) -> None:
    """Refuse an unknown kind, or one whose package is missing.

    Raises:
        ConfigError: see above.
    """
    if kind not in ("words", "static"):
        raise ConfigError(f"embeddings: {kind!r} is neither words nor static")
    if kind == "static":
        check_installed()


def row_vectors(texts: Sequence[str], kind: Embeddings = "words") -> Array:
    """Embeddings of length 1. texts [R] -> float32 [R, 256].

    "words" hashes each word to one of 256 places with a sign (Weinberger et al., arXiv 0902.2206),
    weighted by log(1 + R / df): rows that share rare words are near. "static" needs the extra
    `embeddings`, and knows which words mean alike. A text without words has the vector 0.
    """
    texts = [text[:_MAX_CHARACTERS] for text in texts]
    if kind == "static":
        return sentence_vectors(texts).astype(np.float32)
    frequency: dict[int, int] = {}
    parts = [words_of_texts(texts[i : i + _PART]) for i in range(0, len(texts), _PART)]
    for part in parts:
        owner = np.repeat(np.arange(len(part.starts) - 1), np.diff(part.starts))
        distinct = np.unique(np.stack([part.hashes, owner.astype(np.uint64)]), axis=1)[0]
        for word, count in zip(*np.unique(distinct, return_counts=True), strict=True):
            frequency[int(word)] = frequency.get(int(word), 0) + int(count)
    vectors = np.zeros((len(texts), _SIZE), dtype=np.float32)
    for number, part in enumerate(parts):
        words, place = np.unique(part.hashes, return_inverse=True)
        weights = np.log1p(len(texts) / np.array([frequency[int(w)] for w in words], dtype=float))
        signs = np.where(part.hashes >> np.uint64(63), 1.0, -1.0)
        bins = ((part.hashes >> np.uint64(40)) % np.uint64(_SIZE)).astype(np.int64)
        owner = number * _PART + np.repeat(np.arange(len(part.starts) - 1), np.diff(part.starts))
        values = (signs * weights[place]).astype(np.float32) if len(words) else np.zeros(0)
        np.add.at(vectors, (owner, bins), values)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
