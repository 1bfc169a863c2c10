"""The one place where losses are averaged.

Every average is a weighted sum with weights from the *global* counts of the optimiser step, so that
a gradient does not depend on how a batch was split into micro-batches, packed, padded, ordered or
spread over ranks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from posttrain.config import Aggregation


@dataclass(frozen=True, slots=True)
class Totals:
    """Global counts of one optimiser step, which averages are divided by.

    Attributes:
        tokens: sum of the weights of all targets. sequences: how many.
        groups: how many pairs, or prompts with their completions; trees of the batch.
        parts: the same counts of some of the targets, by the `on` of the terms that are averaged
            on those (`training.selection`). Counts of a name that is not in it are the whole's.
    """

    tokens: float
    sequences: int
    groups: int = 0
    parts: Mapping[str, Totals] = field(default_factory=dict)

    def on(self, name: str) -> Totals:
        """The counts for a term that is averaged on the targets of this name."""
        return self.parts.get(name, self)


def sequence_sum(values: Tensor, sequence: Tensor, num_sequences: int) -> Tensor:
    """Sum of values [M] over the targets of each sequence -> [S]; differentiable."""
    zeros = torch.zeros(num_sequences, dtype=values.dtype, device=values.device)
    return zeros.index_add(0, sequence, values)


def sequence_mean(values: Tensor, sequence: Tensor, num_sequences: int) -> Tensor:
    """Mean of values [M] over the targets of each sequence -> [S]; 0 for a sequence without
    targets.
    """
    counts = sequence_sum(torch.ones_like(values), sequence, num_sequences)
    return sequence_sum(values, sequence, num_sequences) / counts.clamp(min=1)


def target_weights(
    aggregation: Aggregation,
    sequence: Tensor,
    num_sequences: int,
    totals: Totals,
    weights: Tensor | None = None,
    max_length: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Weights w [M] such that sum_i w_i l_i, summed over all micro-batches of the step, is the
    wanted average.

    token_mean:    w_i = c_i / sum of all c                          (SFT, DAPO, BNPO)
    sequence_mean: w_i = c_i / (sum of c in i's sequence) / number of sequences     (GRPO)
    sequence_sum:  w_i = c_i / number of sequences
    (a sequence is one action: REINFORCE, RLOO, LUSPO)
    fixed_length:  w_i = c_i / (number of sequences * max_length)    (Dr.GRPO, arXiv 2503.20783)

    Args:
        sequence: [M] index of each target's sequence. weights: c [M], 1 where absent. max_length:
        tokens.
    """
    ones = torch.ones(sequence.shape, dtype=dtype, device=sequence.device)
    c = ones if weights is None else weights.to(dtype)
    if aggregation == "token_mean":
        return c / max(totals.tokens, 1e-12)
    if aggregation == "sequence_mean":
        per_sequence = sequence_sum(c, sequence, num_sequences).clamp(min=1e-12)
        return c / per_sequence[sequence] / max(totals.sequences, 1)
    if aggregation == "sequence_sum":
        return c / max(totals.sequences, 1)
    if max_length is None:
        raise ValueError("aggregation fixed_length needs max_length")
    return c / (max(totals.sequences, 1) * max_length)
