"""How well a model predicts held-out text: nats per token, and ranks of the true tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from posttrain.data.forest import Batch, TokenSequence, Tree
from posttrain.models.forest_model import evaluating
from posttrain.models.language_model import LanguageModel

_SEQUENCES = 256  # that are in memory at a time


@dataclass(frozen=True, slots=True)
class NextToken:
    """Means over all targets.

    Attributes:
        nats: negative log-likelihood per token; its exponential is the perplexity.
        rank: place of the true token among all tokens by probability, from 1.
        num_tokens: targets.
    """

    nats: float
    rank: float
    num_tokens: int


def next_token(
    model: LanguageModel, sequences: Sequence[TokenSequence], *, max_tokens: int = 2048
) -> NextToken:
    """Measure a model on sequences, each by itself.

        nats = -1/M sum_t log p(x_t | x_<t)
        rank =  1/M sum_t 1 + |{v : p(v | x_<t) > p(x_t | x_<t)}|

    Tied tokens count in favour of the true one.

    Args:
        sequences: their `loss_mask` says which tokens are targets. max_tokens: of a forward pass.
    """
    nats = ranks = 0.0
    number = 0
    for start in range(0, len(sequences), _SEQUENCES):
        chunk = sequences[start : start + _SEQUENCES]
        for forest in Batch([Tree.build([s]) for s in chunk]).split(max_tokens):
            micro = forest.to(model.device)
            with torch.no_grad(), evaluating(model.hf):
                outputs = model.forward(micro, frozenset({"logprobs", "distribution"}))
                names = ("distribution", "target")
                above = outputs["vocabulary"].apply(rank, names, {"target": micro.target})
            nats -= float(outputs["logprobs"].double().sum())
            ranks += float(above.double().sum())
            number += len(micro.target)
    count = max(number, 1)
    return NextToken(nats / count, ranks / count, number)


def rank(distribution: Tensor, target: Tensor) -> Tensor:
    """1 + |{v : log p_v > log p_target}|. log-probs [m, V], int64 [m] -> int64 [m]."""
    own = distribution.gather(1, target[:, None])
    return 1 + (distribution > own).sum(dim=-1)
