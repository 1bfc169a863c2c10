"""What comes next in a text, guessed cheaply: drafts for speculative decoding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from posttrain.errors import ConfigError

Ids = tuple[int, ...]


class Drafter(Protocol):
    """Guesses continuations."""

    def __call__(self, texts: Sequence[Ids], lengths: Sequence[int]) -> list[list[int]]:
        """A draft for each text, of at most the given length; it may be empty."""
        ...


class PromptLookup:
    """The text's own past: what followed the last earlier occurrence of its newest tokens.

    Of all numbers of newest tokens from `max_match` down to `min_match` the first that occurs
    earlier counts (A. Saxena, Prompt Lookup Decoding, 2023).

    Raises:
        ConfigError: not 1 <= min_match <= max_match.
    """

    def __init__(self, *, max_match: int = 3, min_match: int = 1) -> None:
        if not 1 <= min_match <= max_match:
            raise ConfigError(
                f"min_match is {min_match} and max_match is {max_match}; they must be at least 1, "
                "min_match at most max_match"
            )
        self.max_match = max_match
        self.min_match = min_match

    def __call__(self, texts: Sequence[Ids], lengths: Sequence[int]) -> list[list[int]]:
        """See `Drafter`."""
        return [self._draft(text, n) for text, n in zip(texts, lengths, strict=True)]

    def _draft(self, text: Ids, length: int) -> list[int]:
        if length < 1:
            return []
        for size in range(min(self.max_match, len(text) - 1), self.min_match - 1, -1):
            newest = text[-size:]
            for start in range(len(text) - size - 1, -1, -1):
                if text[start : start + size] == newest:
                    return list(text[start + size : start + size + length])
        return []
