"""Vectors of texts, by which demonstrations are compared: words, embeddings, hidden states."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from posttrain.data.forest import Forest, TokenSequence, Tree
from posttrain.data.static_embeddings import check_installed, sentence_vectors
from posttrain.data.templates import text_ids
from posttrain.errors import ConfigError
from posttrain.models.forest_model import evaluating
from posttrain.models.language_model import LanguageModel

Numbers = NDArray[np.float64]
Features = Literal["words", "embeddings", "hidden"]
FEATURES = ("words", "embeddings", "hidden")

_WORD = re.compile(r"\w+")
_MAX_WORDS = 4096


class TextVectors:
    """Unit vectors of texts, each computed once.

    Args:
        texts: by whose words the weights of words are counted.
        model: gives the model of "hidden" when it is first asked for; None where there is none.
    """

    def __init__(
        self, texts: Sequence[str], model: Callable[[], LanguageModel] | None = None
    ) -> None:
        self._texts, self._model = list(texts), model
        self._words: WordWeights | None = None
        self._cached: dict[tuple[str, str], Numbers] = {}

    def __call__(self, texts: Sequence[str], features: str) -> Numbers:
        """Vectors [B, D] of length 1; of a text without any feature, zeros.

        Raises:
            ConfigError: unknown features, a package that is missing, or no model to ask.
        """
        new = [t for t in dict.fromkeys(texts) if (features, t) not in self._cached]
        if new:
            found = self._compute(new, features)
            lengths = np.linalg.norm(found, axis=1, keepdims=True)
            for text, vector in zip(new, found / np.maximum(lengths, 1e-12), strict=True):
                self._cached[features, text] = vector
        return np.stack([self._cached[features, text] for text in texts])

    def _compute(self, texts: list[str], features: str) -> Numbers:
        if features == "embeddings":
            return sentence_vectors(texts)
        if features == "words":
            if self._words is None:
                self._words = WordWeights(self._texts)
            return self._words.vectors(texts)
        check_features(features)
        if self._model is None:
            raise ConfigError(
                "features: hidden states are those of a model that is loaded, and this one is "
                "behind a server; take words or embeddings"
            )
        return hidden_vectors(self._model(), texts)


def check_features(features: str) -> None:
    """Refuse unknown features and a missing package, before weights are loaded.

    Raises:
        ConfigError: as said.
    """
    if features not in FEATURES:
        raise ConfigError(f"features: {features!r} is not known; choose {', '.join(FEATURES)}")
    if features == "embeddings":
        check_installed()


class WordWeights:
    """TF-IDF of words: (1 + log tf) (1 + log((1 + N) / (1 + df))), as in `data.similarity`.

    Args:
        texts: by which document frequencies are counted; the 4,096 most frequent words count.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        frequency = Counter(word for text in texts for word in set(words(text)))
        kept = sorted(frequency, key=lambda w: (-frequency[w], w))[:_MAX_WORDS]
        self._places = {word: place for place, word in enumerate(kept)}
        counts = np.array([frequency[word] for word in kept], dtype=np.float64)
        self._inverse = 1 + np.log((1 + len(texts)) / (1 + counts))

    def vectors(self, texts: Sequence[str]) -> Numbers:
        """Weights [B, words], not normalised."""
        found = np.zeros((len(texts), len(self._places)))
        for row, text in zip(found, texts, strict=True):
            for word, count in Counter(words(text)).items():
                if (place := self._places.get(word)) is not None:
                    row[place] = (1 + np.log(count)) * self._inverse[place]
        return found


def words(text: str) -> list[str]:
    """Words in small letters.

    >>> words("What's new, Ada?")
    ['what', 's', 'new', 'ada']
    """
    return _WORD.findall(text.lower())


def hidden_vectors(
    model: LanguageModel, texts: Sequence[str], *, max_tokens: int = 8192
) -> Numbers:
    """The mean over tokens of the model's last hidden states. [B, D]."""
    sequences = []
    for number, text in enumerate(texts):
        ids = text_ids(model.tokenizer, text or " ", start=True)
        ids = ids if len(ids) > 1 else [*ids, *ids]  # the first token is never a target
        mask = np.arange(len(ids)) > 0
        sequences.append(TokenSequence(np.array(ids), mask, row=str(number)))
    found: list[Any] = [None] * len(texts)
    start = 0
    while start < len(sequences):
        stop, size = start + 1, len(sequences[start].ids)
        while stop < len(sequences) and size + len(sequences[stop].ids) <= max_tokens:
            size += len(sequences[stop].ids)
            stop += 1
        forest = Forest.pack([Tree.build([s]) for s in sequences[start:stop]]).to(model.device)
        with torch.no_grad(), evaluating(model.hf):
            hidden = model.rows_at(forest, sources=False).double().cpu()
        sequence = forest.sequence.cpu()
        for place in range(stop - start):
            found[start + place] = hidden[sequence == place].mean(0).numpy()
        start = stop
    return np.stack(found)
