"""What a model says of rows: nats of completions with and without their prompts, and "yes"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from posttrain.data.conversations import encode_messages
from posttrain.data.encode import encode_item
from posttrain.data.forest import TokenSequence
from posttrain.data.item import Item
from posttrain.data.row_texts import RowText
from posttrain.data.templates import encode_pair, encode_prompt, text_ids
from posttrain.engines.torch import TorchEngine
from posttrain.errors import DataError, TemplateError
from posttrain.models.language_model import LanguageModel
from posttrain.models.scoring import scored
from posttrain.types import Message

Array = np.ndarray

_QUESTION = """###
{text}
###

Does the text between the lines of ### hold informative content that could help to train a \
language model? An informative text is well written, holds usable knowledge of the world, and \
is free of harmful, sexual or biased content. Reply with yes or no.

OPTIONS:
- yes
- no
"""
_SHOWN = 8000  # characters of a row that are asked about


class ModelInputs:
    """Measures rows by a language model.

    Args:
        model: a loaded model.
        max_length: tokens of a row that are read: the first ones.
        max_tokens: distinct tokens of a forward pass.
    """

    def __init__(self, model: LanguageModel, *, max_length: int, max_tokens: int = 4096) -> None:
        self.model, self.max_length, self.max_tokens = model, max_length, max_tokens
        self.engine = TorchEngine(model)

    def nats(self, rows: Sequence[RowText]) -> tuple[Array, Array]:
        """Mean nats per token of the completion [R], with its prompt and alone.

        Both are over the same tokens of the completion: where the first of them has nothing before
        it alone, it is left out of both. NaN where there is no completion, or no row that could be
        read; alone also of plain text.
        """
        whole = [self._sequence(row) for row in rows]
        alone = [self._alone(row) for row in rows]
        groups = [[s] for s in (*whole, *alone) if s is not None and s.loss_mask.any()]
        values = {
            id(sequence): -numbers["logprobs"].astype(np.float64)
            for sequence, numbers in scored(
                self.model, groups, ["logprobs"], max_tokens=self.max_tokens
            )
        }
        pairs = []
        for first, second in zip(whole, alone, strict=True):
            one, other = values.get(id(first)), values.get(id(second))
            if one is not None and other is not None:
                shared = min(len(one), len(other))
                one, other = one[len(one) - shared :], other[len(other) - shared :]
            pairs.append([np.nan if x is None else float(x.mean()) for x in (one, other)])
        table = np.array(pairs, dtype=np.float64).reshape(-1, 2)
        return table[:, 0], table[:, 1]

    def _sequence(self, row: RowText) -> TokenSequence | None:
        """The row as it is trained on."""
        if row.item is None:
            return None
        item = _with_completion(row.item)
        try:
            return self._cut(encode_item(item, self.model.tokenizer))
        except (DataError, TemplateError):
            return None

    def _alone(self, row: RowText) -> TokenSequence | None:
        """The completion without its prompt; of a conversation its last answer."""
        if row.item is None or row.item.text is not None:
            return None
        tokenizer, completion = self.model.tokenizer, _with_completion(row.item).completion
        if not completion:
            return None
        try:
            if isinstance(completion, str):
                return self._cut(encode_pair(tokenizer, "", completion))
            turns = [m for m in completion if m["role"] == "assistant"]
            bare: list[Message] = [{"role": "user", "content": ""}]
            for turn in turns:
                bare += [turn, {"role": "user", "content": ""}]
            return self._cut(encode_messages(tokenizer, bare[:-1]))
        except (DataError, TemplateError, IndexError):
            return None

    def _cut(self, sequence: TokenSequence) -> TokenSequence:
        if len(sequence.ids) <= self.max_length:
            return sequence
        part = slice(0, self.max_length)
        return replace(
            sequence, ids=sequence.ids[part], loss_mask=sequence.loss_mask[part], streams={}
        )

    def yes(self, rows: Sequence[RowText]) -> Array:
        """P(yes) / (P(yes) + P(no)) of whether the row is informative. [R]."""
        tokenizer = self.model.tokenizer
        chat = bool(tokenizer.chat_template)
        asked: list[tuple[list[int], int]] = []
        for row in rows:
            question = _QUESTION.format(text=row.text[:_SHOWN])
            prompt: Any = [{"role": "user", "content": question}] if chat else f"{question}Reply:"
            ids = encode_prompt(tokenizer, prompt)
            replies = [text_ids(tokenizer, r if chat else f" {r}", start=False) for r in _REPLIES]
            room = self.max_length - max(map(len, replies))
            # The end of the question is needed; what is too long loses its beginning.
            ids = ids[-max(room, 1) :]
            asked += [([*ids, *reply], len(ids)) for reply in replies]
        logprobs = np.array([sum(x) for x in self.engine.score(asked)], dtype=np.float64)
        table = logprobs.reshape(-1, len(_REPLIES))
        return np.exp(table[:, 0] - np.logaddexp(table[:, 0], table[:, 1]))


_REPLIES = ("yes", "no")


def _with_completion(item: Item) -> Item:
    """A row with what is imitated: of a preference what was chosen."""
    if item.completion is None and item.chosen is not None:
        return replace(item, completion=item.chosen, chosen=None, rejected=None)
    if item.completion is None and item.completions:
        return replace(item, completion=item.completions[0])
    return item
