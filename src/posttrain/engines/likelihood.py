"""How likely given tokens are, and what the model would have written in their place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from posttrain.data.forest import Batch, TokenSequence, Tree
from posttrain.models.forest_model import evaluating
from posttrain.models.language_model import LanguageModel

_BLOCK_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class TokenLikelihood:
    """Of one token: its log-prob under the model at temperature 1 in nats; the likeliest tokens in
    its place with theirs, likeliest first.
    """

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


def likelihoods(
    model: LanguageModel,
    sequences: Sequence[Sequence[int]],
    *,
    num_top: int = 0,
    max_tokens: int = 16384,
) -> list[list[TokenLikelihood]]:
    """log p(x_t | x_<t) of every token but the first, for each sequence of ids.

    What the sequences share is computed once.

    Args:
        num_top: alternatives per token. max_tokens: distinct tokens of one forward pass.
    """
    items = [
        TokenSequence(np.array(ids), np.arange(len(ids)) > 0, row=str(number))
        for number, ids in enumerate(sequences)
    ]
    results: list[list[TokenLikelihood]] = [[] for _ in sequences]
    batch = Batch([Tree.build(items)]) if items else Batch([])
    with evaluating(model.hf), torch.inference_mode():
        for forest in batch.split(max_tokens):
            forest = forest.to(model.device)
            hidden = model.rows_at(forest, sources=True)
            tokens = _scored(model, hidden, forest.target, num_top)
            counts = torch.bincount(forest.sequence, minlength=forest.num_sequences).tolist()
            start = 0
            for row, count in zip(forest.rows, counts, strict=True):
                results[int(row)] = tokens[start : start + count]
                start += count
    return results


def _scored(
    model: LanguageModel, hidden: torch.Tensor, target: torch.Tensor, num_top: int
) -> list[TokenLikelihood]:
    """hidden [M, D], target [M]; in blocks of rows, so that logits stay in bounded memory."""
    head, scored = model.head, []
    rows = max(1, _BLOCK_BYTES // (4 * head.weight.shape[0]))
    for part, ids in zip(hidden.split(rows), target.split(rows), strict=True):
        logprobs = head.logits(part).float().log_softmax(dim=-1)
        chosen = logprobs.gather(1, ids[:, None])[:, 0].tolist()
        if not num_top:
            scored += [TokenLikelihood(value) for value in chosen]
            continue
        values, places = logprobs.topk(min(num_top, logprobs.shape[1]), dim=-1)
        for value, names, numbers in zip(chosen, places.tolist(), values.tolist(), strict=True):
            scored.append(TokenLikelihood(value, tuple(zip(names, numbers, strict=True))))
    return scored
