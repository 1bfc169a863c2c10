"""Where a sample ends: at a token id, or where its text comes to hold a stop string."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from posttrain.types import Sampling


def token_texts(tokenizer: Any, vocab_size: int) -> list[str]:
    """The text of each token id inside a longer text."""
    # Twice, because many tokenizers drop the space that a text begins with.
    return list(
        tokenizer.batch_decode([[i, i] for i in range(vocab_size)], skip_special_tokens=False)
    )


class StoppingRow(Protocol):
    """What is read and written of a row: its settings, its newest ids, and the stop string that
    ended it.
    """

    sampling: Sampling
    tail: list[int]
    stop_string: str | None


class Stops:
    """Tells which rows end with their newest token.

    Args:
        always: ids that end every row. texts: of the vocabulary, asked for where there are stop
        strings (`token_texts`).
    """

    def __init__(
        self,
        always: Iterable[int],
        tokenizer: Any,
        texts: Callable[[], list[str]],
        vocab_size: int,
        device: torch.device,
    ) -> None:
        self._always = frozenset(always)
        self._tokenizer = tokenizer
        self._texts = texts
        # Rows with the same stop ids and strings share a line [V] of the ids that end them, and
        # one of the ids that may complete a string.
        self._numbers: dict[tuple[tuple[int, ...], tuple[str, ...]], int] = {}
        self._ends = torch.zeros(0, vocab_size, dtype=torch.bool, device=device)
        self._may_complete = torch.zeros(0, vocab_size, dtype=torch.bool, device=device)
        self._has_strings = False

    def kind(self, sampling: Sampling) -> int:
        """The number of a row's stop ids and strings, for `after`."""
        key = (sampling.stop_ids, sampling.stop)
        if key not in self._numbers:
            self._numbers[key] = len(self._numbers)
            ends, may_complete = self._ends.new_zeros(2, self._ends.shape[1])
            ids = {*sampling.stop_ids, *self._always}
            ends[[i for i in ids if 0 <= i < len(ends)]] = True
            if sampling.stop:
                may_complete[_that_may_complete(sampling.stop, self._texts())] = True
                self._has_strings = True
            self._ends = torch.cat([self._ends, ends[None]])
            self._may_complete = torch.cat([self._may_complete, may_complete[None]])
        return self._numbers[key]

    def after(
        self,
        rows: Sequence[StoppingRow],
        kinds: Tensor,
        tokens: Tensor,
        running: np.ndarray,
    ) -> np.ndarray:
        """Whether each line has ended with this token, bool [R].

        Args:
            rows: of the lines. kinds: int64 [R], of each row (`kind`). tokens: int64 [R], the
            newest. running: bool [R], lines not ended before.
        """
        ended = self._ends[kinds, tokens].cpu().numpy() & running
        if self._has_strings:
            may_complete = self._may_complete[kinds, tokens].cpu().numpy()
            ended = ended | self._strings(rows, tokens.tolist(), running & ~ended, may_complete)
        return ended

    def _strings(
        self,
        rows: Sequence[StoppingRow],
        tokens: list[int],
        running: np.ndarray,
        may_complete: np.ndarray,
    ) -> np.ndarray:
        ended = np.zeros_like(running)
        for line in np.flatnonzero(running).tolist():
            row = rows[line]
            if not row.sampling.stop:
                continue
            # Every token of a stop string has at least one of its bytes; a few more make up for
            # split characters.
            longest = max(len(s.encode()) for s in row.sampling.stop) + 4
            row.tail = [*row.tail[1 - longest :], tokens[line]]
            # Text is looked at only where this token could have been the last of a stop string.
            if not may_complete[line]:
                continue
            # The text is to come out as written: "clean-up" would take spaces away that a stop
            # string asks for.
            text = self._tokenizer.decode(
                row.tail, skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
            row.stop_string = next((s for s in row.sampling.stop if s in text), None)
            ended[line] = row.stop_string is not None
        return ended


def _that_may_complete(strings: tuple[str, ...], texts: list[str]) -> list[int]:
    """Ids of tokens whose text holds the last character of one of the strings, or a part of a
    character.
    """
    ends = {s[-1] for s in strings}
    return [i for i, text in enumerate(texts) if "\ufffd" in text or not ends.isdisjoint(text)]
