"""The steps of a completion: where each ends, in text and in tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from posttrain.data.forest import TokenSequence


class PieceTexts:
    """The text that each token id adds inside a longer text; "" for special tokens."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._cache: dict[int, str] = {}

    def __call__(self, ids: Sequence[int]) -> list[str]:
        """The pieces of some ids."""
        fresh = sorted({int(i) for i in ids} - self._cache.keys())
        if not fresh:
            return [self._cache[int(i)] for i in ids]
        alone = self._tokenizer.batch_decode([[i] for i in fresh], skip_special_tokens=True)
        # Many tokenizers drop the space at the start of a text. The second of two equal tokens
        # keeps it.
        twice = self._tokenizer.batch_decode([[i, i] for i in fresh], skip_special_tokens=True)
        self._cache |= {i: two[len(one) :] for i, one, two in zip(fresh, alone, twice, strict=True)}
        return [self._cache[int(i)] for i in ids]


def step_ends(texts: Sequence[str], separator: str) -> list[int]:
    """Index of the last token of each step of a completion.

    A step ends with the token that completes the separator after it, the last step with the
    completion's last token. White space alone is no step.

    Args:
        texts: the text that each token of the completion adds (`PieceTexts`).
    """
    whole = "".join(texts)
    char_ends = np.cumsum([len(t) for t in texts])
    ends: list[int] = []
    start = 0
    while start <= len(whole):
        place = whole.find(separator, start)
        if whole[start : place if place >= 0 else None].strip():
            last = len(texts) - 1  # tokens without text, such as EOS, belong to the last step
            ends.append(
                last if place < 0 else int(np.searchsorted(char_ends, place + len(separator)))
            )
        if place < 0:
            break
        start = place + len(separator)
    return ends


def step_texts(text: str, separator: str) -> list[str]:
    """The steps of a completion. Joined by the separator they are its text; blank parts belong to
    the step after them.
    """
    steps, before = [], ""
    for part in text.split(separator):
        if part.strip():
            steps.append(before + part)
            before = ""
        else:
            before += part + separator
    return steps


def scored_places(sequence: TokenSequence, separator: str | None, texts: PieceTexts) -> np.ndarray:
    """int64, indices of the tokens that are scored: the last token of the sequence or, with a
    separator, of each step of its completion.
    """
    if separator is not None:
        first = int(np.flatnonzero(sequence.loss_mask)[0])
        ends = step_ends(texts(sequence.ids[first:].tolist()), separator)
        if ends:
            return first + np.array(ends)
    return np.array([len(sequence.ids) - 1])
