"""What losses take and give, as types.

Shapes: M targets (trained tokens of all sequences of a micro-batch, in one flat row), S sequences.
Every tensor input is [M]: `logprobs` (nats, with gradient), `old_logprobs`, `engine_logprobs`, `ref_logprobs`,
`entropy` (nats, with gradient), `advantages`; `sequence` [M] tells which sequence a target belongs to, and
`num_sequences` is S.
"""

from __future__ import annotations

from torch import Tensor

PerToken = Tensor
"""A loss of shape [M]."""

PerSequence = Tensor
"""A loss of shape [S]."""

PerPair = Tensor
"""A loss of shape [P], P pairs of a chosen and a rejected sequence."""

Metrics = dict[str, Tensor]
"""What a loss also tells: name -> numbers that are averaged over all of the step's targets or sequences."""

PAIR_INPUTS = frozenset({"chosen", "rejected", "ref_chosen", "ref_rejected", "chosen_length", "rejected_length"})
"""Inputs of losses of pairs, each [P]: see `preference`."""

MODEL_INPUTS = frozenset({"logprobs", "entropy", "ref_logprobs"})
"""Inputs that a forward pass computes; all others come with the batch as streams."""
