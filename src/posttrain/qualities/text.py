"""What the text of a row shows by itself: length, and the rules that web text is filtered by."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from posttrain.registry import qualities

Array = np.ndarray

_STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})
_BULLETS = ("•", "●", "○", "*", "-", "–", "‣", "◦")


@qualities.register
def tokens(num_tokens: Array) -> Array:
    """Tokens of the row. [R] -> [R]. Without a tokenizer, its words and signs."""
    return np.asarray(num_tokens, dtype=np.float64)


@qualities.register
def characters(texts: Sequence[str]) -> Array:
    """Characters of the row. [R] -> [R]."""
    return np.array([len(text) for text in texts], dtype=np.float64)


@qualities.register
def completion_words(completions: Sequence[str]) -> Array:
    """Words of the completion; long ones are a strong baseline (arXiv 2402.04833). [R] -> [R]."""
    return np.array([len(text.split()) for text in completions], dtype=np.float64)


@qualities.register
def mean_word_length(texts: Sequence[str]) -> Array:
    """Mean characters of a word; Gopher's rule is 3 to 10 (arXiv 2112.11446). [R] -> [R]."""
    return _by_text(texts, lambda text, words: sum(map(len, words)) / len(words))


@qualities.register
def symbol_ratio(texts: Sequence[str]) -> Array:
    """Hash signs and ellipses per word; Gopher's rule is at most 0.1 (arXiv 2112.11446).
    [R] -> [R].
    """

    def ratio(text: str, words: list[str]) -> float:
        ellipses = text.replace("...", "…").count("…")
        return max(text.count("#"), ellipses) / len(words)

    return _by_text(texts, ratio)


@qualities.register
def bullet_share(texts: Sequence[str]) -> Array:
    """Share of lines that begin with a bullet; Gopher's rule is at most 0.9. [R] -> [R]."""
    return _by_text(texts, lambda text, words: _line_share(text, lambda t: t.startswith(_BULLETS)))


@qualities.register
def ellipsis_share(texts: Sequence[str]) -> Array:
    """Share of lines that end with an ellipsis; Gopher's rule is at most 0.3. [R] -> [R]."""
    return _by_text(
        texts, lambda text, words: _line_share(text, lambda t: t.endswith(("...", "…")))
    )


@qualities.register
def alphabetic_share(texts: Sequence[str]) -> Array:
    """Share of words with a letter; Gopher's rule is at least 0.8, which mathematics and code
    break (arXiv 2112.11446). [R] -> [R].
    """

    def share(text: str, words: list[str]) -> float:
        return sum(any(map(str.isalpha, word)) for word in words) / len(words)

    return _by_text(texts, share)


@qualities.register
def stop_words(texts: Sequence[str]) -> Array:
    """How many of eight English words occur (the be to of and that have with); Gopher's rule for
    English is at least 2 (arXiv 2112.11446). [R] -> [R].
    """
    return _by_text(
        texts, lambda text, words: float(len(_STOP_WORDS & {word.lower() for word in words}))
    )


def _line_share(text: str, holds: Callable[[str], bool]) -> float:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return sum(map(holds, lines)) / max(len(lines), 1)


def _by_text(texts: Sequence[str], measure: Callable[[str, list[str]], float]) -> Array:
    """A measure of each text and its words; NaN of a text without words."""
    values = []
    for text in texts:
        words = text.split()
        values.append(measure(text, words) if words else np.nan)
    return np.array(values, dtype=np.float64)
