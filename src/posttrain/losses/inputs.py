"""What losses take and give, as types, and how numbers per sequence follow from numbers per target.

Shapes: M targets (trained tokens of all sequences of a micro-batch, in one flat row), S sequences, Q trees, which are pairs
or the completions of one prompt where a loss compares those.

Per target, [M]: `logprobs` (nats, with gradient), `old_logprobs`, `engine_logprobs`, `ref_logprobs`, `teacher_logprobs`,
`entropy` (nats, with gradient), `forward_kl` KL(ref || pi) and `reverse_kl` KL(pi || ref) over the whole vocabulary (with
gradient), `log_collision` log sum_v pi_v^2; `advantages`; `scores` (of a score model, at the target); `values` (of the critic,
before the target), `old_values`, `returns`, `labels`; `entropy_weight` and `reward_variance` (of the completion's group), which
adaptive entropy terms go by; `target`, the token id; `sequence`, which sequence it belongs to.
Whole distributions, log-probs [M, V] given in chunks of targets: `distribution`, `ref_distribution`, `teacher_distribution`.
Per sequence, [S]: sums over its targets `logprob`, `ref_logprob`, `old_logprob`, `engine_logprob`; `length`, its targets;
`score`, at its last target; `reward`, `label` and whatever the data carry; `group`, its tree. `num_sequences` is S.
Per pair, [Q]: the same of each role: `chosen`, `ref_chosen`, `chosen_length`, `chosen_score`, `chosen_forward_kl`, and so of
`rejected` (and of `gold`, the reference text of a triple); `margin`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from posttrain.losses.reduce import sequence_sum

PerToken = Tensor
"""A loss of shape [M]."""

PerSequence = Tensor
"""A loss of shape [S]."""

PerPair = Tensor
"""A loss of shape [Q], one value a pair of a chosen and a rejected sequence."""

PerGroup = Tensor
"""A loss of shape [Q], one value for the completions of a prompt."""

PerBatch = Tensor
"""A loss of any length whose values each depend on all sequences of the step; their mean is taken."""

Metrics = dict[str, Tensor]
"""What a loss also tells: name -> numbers that are averaged over all of the step's targets or sequences."""

MODEL_INPUTS = frozenset({"logprobs", "entropy", "ref_logprobs", "teacher_logprobs"})
"""Inputs that a language model's forward pass computes; others come with the batch or follow from these."""

SCORE_INPUTS = frozenset({"scores", "values"})
"""Inputs that a score model computes."""

_SUMS = {
    "logprob": "logprobs", "ref_logprob": "ref_logprobs", "old_logprob": "old_logprobs", "engine_logprob": "engine_logprobs",
}  # fmt: skip
_OF_ROLE = {"{}": "logprob", "ref_{}": "ref_logprob", "{}_length": "length", "{}_score": "score",
            "{}_forward_kl": "forward_kl"}  # fmt: skip


def base_of(name: str, roles: tuple[str, ...]) -> str | None:
    """The input per target that a number per sequence or role is made from; None where it is not made from one."""
    for role in roles:
        name = next((whole for form, whole in _OF_ROLE.items() if form.format(role) == name), name)
    return {**_SUMS, "score": "scores", "forward_kl": "forward_kl"}.get(name)


def sequence_inputs(
    inputs: Mapping[str, Any], sequence: Tensor, num_sequences: int, roles: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """The numbers per sequence [S] and per role [Q] that follow from the inputs per target [M] that are there.

    Args:
        roles: of the sequences of each tree, in order; each tree has one of each.
    """
    lengths = torch.bincount(sequence, minlength=num_sequences)
    of_sequence = {k: sequence_sum(inputs[v], sequence, num_sequences) for k, v in _SUMS.items() if v in inputs}
    numbers = next(iter(of_sequence.values()), None)
    of_sequence["length"] = lengths.to(torch.float32 if numbers is None else numbers.dtype)
    if "scores" in inputs:
        # Targets of a sequence lie in order, side by side.
        last = (lengths.cumsum(0) - 1).clamp(min=0)
        of_sequence["score"] = inputs["scores"][last]
    found = {k: v for k, v in of_sequence.items() if k not in inputs}
    if roles:
        if "forward_kl" in inputs:
            of_sequence["forward_kl"] = sequence_sum(inputs["forward_kl"], sequence, num_sequences)
        for form, whole in _OF_ROLE.items():
            if whole in of_sequence:
                found |= dict(zip((form.format(r) for r in roles), of_sequence[whole].view(-1, len(roles)).unbind(1)))
        if "margin" in inputs:
            found["margin"] = inputs["margin"].view(-1, len(roles))[:, 0]
    return found
