"""What losses take and give, as types, and how numbers per sequence follow from numbers per target.

Shapes: M targets (trained tokens of all sequences of a micro-batch, in one flat row), S sequences,
Q trees, which are pairs or the completions of one prompt where a loss compares those.

Per target, [M]: `logprobs` (nats, with gradient), `old_logprobs`, `engine_logprobs`,
`ref_logprobs`, `teacher_logprobs`,
`entropy` (nats, with gradient), `forward_kl` KL(ref || pi) and `reverse_kl` KL(pi || ref) over the
whole vocabulary (with gradient), `log_collision` log sum_v pi_v^2; `advantages`; `scores` (of a
score model, at the target); `values` (of the critic, before the target), `old_values`, `returns`,
`labels`; `entropy_weight` and `reward_variance` (of the completion's group), which adaptive entropy
terms go by; `step`, which step of its completion it is in (0, 1, ...); `given`, 1 where a token was
given to the model and not sampled; `target`, the token id; `sequence`, which sequence it belongs
to.
Whole distributions, log-probs [M, V] given in chunks of targets: `distribution`,
`ref_distribution`, `teacher_distribution`;
`foreign_distribution` [M, V'] of a teacher with another vocabulary, which says nothing where
`aligned` [M] is 0. Per sequence, [S]: sums over its targets `logprob`, `ref_logprob`,
`old_logprob`, `engine_logprob`; `length`, its targets;
`score`, at its last target; `reward`, `label` and whatever the data carry; `group`, its tree.
`num_sequences` is S. The same for all sequences of a step, without gradient: `kl`, an estimate of
KL(pi || ref) from completions of other prompts;
`shift`, the middle between the mean log-ratios of desirable and undesirable completions.
Per pair, [Q]: the same of each role: `chosen`, `ref_chosen`, `chosen_length`, `chosen_score`,
`chosen_forward_kl`, and so of
`rejected` (and of `gold`, the reference text of a triple); `margin`; `probability`, that the chosen
one is the better.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from torch import Tensor

from posttrain.losses.reduce import sequence_mean, sequence_sum

PerToken = Annotated[Tensor, "PerToken"]
"""A loss of shape [M]. The name in these annotations is what the registry reads of a function
that is defined in a notebook.
"""

PerSequence = Annotated[Tensor, "PerSequence"]
"""A loss of shape [S]."""

PerPair = Annotated[Tensor, "PerPair"]
"""A loss of shape [Q], one value a pair of a chosen and a rejected sequence."""

PerGroup = Annotated[Tensor, "PerGroup"]
"""A loss of shape [Q], one value for the completions of a prompt."""

PerBatch = Annotated[Tensor, "PerBatch"]
"""A loss of any length whose values each depend on all sequences of the step; their mean is
taken.
"""

Metrics = dict[str, Tensor]
"""What a loss also tells: name -> numbers that are averaged over all of the step's targets or
sequences.

Of a name that begins with min_ or max_ the smallest or largest number is told instead.
"""

MODEL_INPUTS = frozenset({"logprobs", "entropy", "ref_logprobs", "teacher_logprobs"})
"""Inputs that a language model's forward pass computes; others come with the batch or follow
from these.
"""

SCORE_INPUTS = frozenset({"scores", "values"})
"""Inputs that a score model computes."""

ROLLOUT_INPUTS = frozenset(
    {"old_logprobs", "engine_logprobs", "advantages", "returns", "old_values"}
)
"""Inputs that only sampled and credited completions carry."""

CREDIT_INPUTS = ROLLOUT_INPUTS | {"entropy_weight", "reward_variance"}
"""The same, with what depends on a completion's group."""

LABEL_INPUTS = frozenset({"label", "labels", "margin", "probability", "kl", "shift"})
"""Inputs that come with labelled or compared data."""

TEACHER_INPUTS = frozenset(
    {"teacher_logprobs", "teacher_distribution", "foreign_distribution", "aligned"}
)
"""Inputs that a teacher gives."""

_SUMS = {
    "logprob": "logprobs",
    "ref_logprob": "ref_logprobs",
    "old_logprob": "old_logprobs",
    "engine_logprob": "engine_logprobs",
}
_OF_ROLE = {
    "{}": "logprob",
    "ref_{}": "ref_logprob",
    "{}_length": "length",
    "{}_score": "score",
    "{}_forward_kl": "forward_kl",
}


def base_of(name: str, roles: tuple[str, ...]) -> str | None:
    """The input per target that a number per sequence or role is made from; None where it is
    not made from one.
    """
    for role in roles:
        name = next((whole for form, whole in _OF_ROLE.items() if form.format(role) == name), name)
    return {**_SUMS, "score": "scores", "forward_kl": "forward_kl"}.get(name)


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
        for k, v in _SUMS.items()
        if v in inputs
    }
    numbers = next(iter(of_sequence.values()), None)
    of_sequence["length"] = lengths.to(torch.float32 if numbers is None else numbers.dtype)
    if "scores" in inputs:
        # Targets of a sequence lie in order, side by side.
        last = (lengths.cumsum(0) - 1).clamp(min=0)
        of_sequence["score"] = inputs["scores"][last] * (lengths > 0)
    found = {k: v for k, v in of_sequence.items() if k not in inputs}
    if roles:
        if "forward_kl" in inputs:
            of_sequence["forward_kl"] = sequence_sum(inputs["forward_kl"], sequence, num_sequences)
        for form, whole in _OF_ROLE.items():
            if whole in of_sequence:
                found |= dict(
                    zip(
                        (form.format(r) for r in roles),
                        of_sequence[whole].view(-1, len(roles)).unbind(1),
                    )
                )
        found |= {
            k: inputs[k].view(-1, len(roles))[:, 0]
            for k in ("margin", "probability")
            if k in inputs
        }
    return found


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
    return sum(mean[:, i] for i, role in enumerate(roles) if role in ("chosen", "rejected")).exp()  # type: ignore[union-attr]
