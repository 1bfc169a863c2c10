"""Where a sample ends: at a token id, or where its text comes to hold a stop string."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

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


class Stops:
    """Which rows have ended. stopped: row -> the stop string, or None for an id.

    Args:
        settings: of each row. always: ids that end every row. texts: of the vocabulary, asked for
        where there are stop
            strings (`token_texts`).
    """

    def __init__(
        self,
        settings: Sequence[Sampling],
        always: Iterable[int],
        tokenizer: Any,
        texts: Callable[[], list[str]],
        vocab_size: int,
        device: torch.device,
    ) -> None:
        self.stopped: dict[int, str | None] = {}
        self._settings = settings
        self._tokenizer = tokenizer
        # Rows with the same settings share a table [V] of the ids that end them.
        number = {
            key: k for k, key in enumerate(dict.fromkeys((s.stop_ids, s.stop) for s in settings))
        }
        self._kind = torch.tensor(
            [number[s.stop_ids, s.stop] for s in settings], dtype=torch.int64, device=device
        )
        self._ends = torch.zeros(len(number), vocab_size, dtype=torch.bool, device=device)
        self._may_complete = torch.zeros(len(number), vocab_size, dtype=torch.bool, device=device)
        for (ids, strings), k in number.items():
            self._ends[k, [i for i in {*ids, *always} if 0 <= i < vocab_size]] = True
            if strings:
                self._may_complete[k, _that_may_complete(strings, texts())] = True
        self._has_strings = any(strings for _, strings in number)
        self._written: list[list[int]] = [[] for _ in settings] if self._has_strings else []

    def after(self, alive: Tensor, tokens: Tensor, running: np.ndarray) -> np.ndarray:
        """Whether each line has ended with this token. alive: the row of each line [R];
        running: lines not ended before.
        """
        kind = self._kind[alive]
        ended = self._ends[kind, tokens].cpu().numpy() & running
        if ended.any():
            self.stopped.update(dict.fromkeys(alive.cpu().numpy()[ended].tolist()))
        if self._has_strings:
            may_complete = self._may_complete[kind, tokens].cpu().numpy()
            ended = ended | self._strings(
                alive.tolist(), tokens.tolist(), running & ~ended, may_complete
            )
        return ended

    def _strings(
        self, alive: list[int], tokens: list[int], running: np.ndarray, may_complete: np.ndarray
    ) -> np.ndarray:
        ended = np.zeros_like(running)
        for line in np.flatnonzero(running).tolist():
            row = alive[line]
            self._written[row].append(tokens[line])
            # Text is looked at only where this token could have been the last of a stop string.
            if not may_complete[line]:
                continue
            strings = self._settings[row].stop
            # Every token of a stop string has at least one of its bytes; a few more make up for
            # split characters.
            tail = self._written[row][-(max(len(s.encode()) for s in strings) + 4) :]
            # The text is to come out as written: "clean-up" would take spaces away that a stop
            # string asks for.
            text = self._tokenizer.decode(
                tail, skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
            match = next((s for s in strings if s in text), None)
            if match is not None:
                self.stopped[row] = match
                ended[line] = True
        return ended


def _that_may_complete(strings: tuple[str, ...], texts: list[str]) -> list[int]:
    """Ids of tokens whose text holds the last character of one of the strings, or a part of a
    character.
    """
    ends = {s[-1] for s in strings}
    return [i for i, text in enumerate(texts) if "\ufffd" in text or not ends.isdisjoint(text)]
