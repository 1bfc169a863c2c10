"""Numbers per sequence and per pair, computed from numbers per target.

Names and shapes are those of `posttrain.inputs.LOSS_INPUTS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from posttrain.inputs import OF_ROLE, SUMS
from posttrain.losses.reduce import sequence_mean, sequence_sum

Metrics = dict[str, Tensor]
"""What a loss logs besides its values: name -> numbers, averaged over the step.

Of a name that begins with min_ or max_, the smallest or largest number is logged instead.
"""


def sequence_inputs(
    inputs: Mapping[str, Any],
    sequence: Tensor,
    num_sequences: int,
    roles: tuple[str, ...] = (),
    tail_weight: float = 1.0,
) -> dict[str, Tensor]:
    """The numbers per sequence [S] and per role [Q] that follow from the inputs per target [M] that
    are there.

    Args:
        roles: of the sequences of each tree, in order; each tree has one of each.
        tail_weight: of targets beyond the length of the shorter of chosen and rejected, in the sums
        of log-probs.
    """
    lengths = torch.bincount(sequence, minlength=num_sequences)
    tail = _tail_weights(sequence, lengths, roles, tail_weight) if tail_weight != 1 else 1.0
    of_sequence = {
        k: sequence_sum(tail * inputs[v], sequence, num_sequences)
        for k, v in SUMS.items()
        if v in inputs
    }
    numbers = next(iter(of_sequence.values()), None)
    of_sequence["length"] = lengths.to(torch.float32 if numbers is None else numbers.dtype)
    if "scores" in inputs:
        # Targets of a sequence lie in order, side by side.
        last = (lengths.cumsum(0) - 1).clamp(min=0)
        of_sequence["score"] = inputs["scores"][last] * (lengths > 0)
    derived = {k: v for k, v in of_sequence.items() if k not in inputs}
    if roles:
        if "forward_kl" in inputs:
            of_sequence["forward_kl"] = sequence_sum(inputs["forward_kl"], sequence, num_sequences)
        for form, whole in OF_ROLE.items():
            if whole in of_sequence:
                derived |= dict(
                    zip(
                        (form.format(r) for r in roles),
                        of_sequence[whole].view(-1, len(roles)).unbind(1),
                    )
                )
        derived |= {
            k: inputs[k].view(-1, len(roles))[:, 0]
            for k in ("margin", "probability")
            if k in inputs
        }
    return derived


def _tail_weights(
    sequence: Tensor, lengths: Tensor, roles: tuple[str, ...], tail_weight: float
) -> Tensor:
    """Weights [M]: 1 up to the length of the shorter of a pair's completions, then
    `tail_weight` (LD-DPO, arXiv 2409.06411).
    """
    place = (
        torch.arange(len(sequence), device=sequence.device)
        - (lengths.cumsum(0) - lengths)[sequence]
    )
    by_role = lengths.view(-1, len(roles))
    compared = [i for i, role in enumerate(roles) if role in ("chosen", "rejected")]
    bound = lengths.clone().view(-1, len(roles))
    bound[:, compared] = by_role[:, compared].min(1, keepdim=True).values
    return torch.where(place < bound.flatten()[sequence], 1.0, tail_weight)


def policy_weight(
    inputs: Mapping[str, Any], sequence: Tensor, num_sequences: int, roles: tuple[str, ...]
) -> Tensor:
    """How likely the policy itself is to write a pair [Q], without gradient (WPO, arXiv
    2406.11827).

    exp(mean_t(log pi(y_t) - log sum_v pi_v^2)) of the chosen times the same of the rejected.
    """
    excess = inputs["logprobs"].detach() - inputs["log_collision"]
    mean = sequence_mean(excess, sequence, num_sequences).view(-1, len(roles))
    columns = [i for i, role in enumerate(roles) if role in ("chosen", "rejected")]
    total: Any = sum(mean[:, i] for i in columns)
    likelihood: Tensor = total.exp()
    return likelihood
