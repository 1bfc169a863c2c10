"""Losses of distillation: a teacher's next-token distributions, or its log-probs.

The divergences take log-probs [m, V] of a chunk of targets (`models.vocabulary`), q of the teacher
and p of the student; neither logits nor probabilities of all targets are ever held. Their setting
`temperature` T flattens both, as softmax(logits / T); gradients shrink with 1 / T^2, which a weight
of T^2 makes good (Hinton et al., arXiv 1503.02531). Their setting `top_k` keeps the teacher's k
likeliest tokens and puts the rest of the vocabulary into one bin (0 keeps all); by the log-sum
inequality that is a lower bound of the whole divergence.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from posttrain.losses.inputs import Metrics
from posttrain.losses.reduce import sequence_sum
from posttrain.registry import losses

Direction = Literal["forward", "reverse"]
"""Forward is KL(teacher || student), reverse KL(student || teacher)."""


@losses.register(per="token")
def teacher_kl(
    distribution: Tensor,
    teacher_distribution: Tensor,
    *,
    direction: Direction = "forward",
    temperature: float = 1.0,
    top_k: int = 0,
) -> tuple[Tensor, Metrics]:
    """Word-level distillation: KL(q || p), "forward", which covers the teacher q; KL(p || q),
    "reverse", which seeks its modes.

    l_t = sum_v q_v (log q_v - log p_v), or sum_v p_v (log p_v - log q_v) (Hinton et al., arXiv
    1503.02531; MiniLLM, arXiv 2306.08543, argues for the reverse). Log-probs [m, V] -> [m], nats.
    """
    q, p = _prepared(teacher_distribution, distribution, temperature, top_k)
    value = _kl(q, p) if direction == "forward" else _kl(p, q)
    return value, _metrics(teacher_distribution, distribution)


@losses.register(per="token")
def jsd(
    distribution: Tensor,
    teacher_distribution: Tensor,
    *,
    beta: float = 0.5,
    temperature: float = 1.0,
    top_k: int = 0,
) -> tuple[Tensor, Metrics]:
    """Generalised Jensen-Shannon divergence of teacher q and student p (GKD, arXiv 2306.13649).

    l_t = beta KL(q || m) + (1 - beta) KL(p || m),  m = beta q + (1 - beta) p

    At the ends, where that is 0, it is the limit after division by beta (1 - beta): beta 0 is
    KL(q || p), beta 1 is KL(p || q). Log-probs [m, V] -> [m], nats.
    """
    q, p = _prepared(teacher_distribution, distribution, temperature, top_k)
    if not 0 <= beta <= 1:
        raise ValueError(
            f"beta is {beta}; it mixes the two distributions, so it lies between 0 (forward KL) "
            "and 1 (reverse KL)"
        )
    if beta == 0:
        value = _kl(q, p)
    elif beta == 1:
        value = _kl(p, q)
    else:
        mixed = torch.logaddexp(q + math.log(beta), p + math.log1p(-beta))
        value = beta * _kl(q, mixed) + (1 - beta) * _kl(p, mixed)
    return value, _metrics(teacher_distribution, distribution)


@losses.register(per="token")
def skew_kl(
    distribution: Tensor,
    teacher_distribution: Tensor,
    *,
    alpha: float = 0.1,
    direction: Direction = "forward",
    temperature: float = 1.0,
    top_k: int = 0,
) -> tuple[Tensor, Metrics]:
    """Skew KL: the second distribution is mixed with some of the first, so that it is bounded
    (DistiLLM, arXiv 2402.03898).

    forward: KL(q || alpha q + (1 - alpha) p); reverse: KL(p || (1 - alpha) q + alpha p). alpha 0 is
    the plain KL; the value never exceeds -log alpha. Log-probs [m, V] -> [m], nats.
    """
    q, p = _prepared(teacher_distribution, distribution, temperature, top_k)
    if not 0 <= alpha < 1:
        raise ValueError(
            f"alpha is {alpha}; it is the share of the first distribution in the second, at least "
            "0 and below 1"
        )
    first, second = (q, p) if direction == "forward" else (p, q)
    if alpha:
        second = torch.logaddexp(first + math.log(alpha), second + math.log1p(-alpha))
    return _kl(first, second), _metrics(teacher_distribution, distribution)


@losses.register(per="token")
def sampled_reverse_kl(
    logprobs: Tensor,
    teacher_logprobs: Tensor,
    sequence: Tensor,
    num_sequences: int,
    *,
    horizon: Literal["token", "sequence"] = "token",
) -> tuple[Tensor, Metrics]:
    """On-policy distillation by policy gradient, on the tokens that the student sampled; needs no
    whole distribution.

    l_t = -A_t log p(y_t),  A_t = sg[r_t],  r_t = log q(y_t) - log p(y_t)

    The teacher rewards every token. The mean over samples of p has the gradient of KL(p || q) at
    each state, the states held fixed. horizon "sequence" credits a token with all that follows, A_t
    = sum_{s >= t} r_s, the whole gradient of the sequence's reverse KL (MiniLLM, arXiv 2306.08543,
    without its variance reduction). Right on completions that the student sampled at temperature 1;
    elsewhere it is biased. Inputs [M], nats -> [M].
    """
    reward = (teacher_logprobs - logprobs).detach()
    advantage = reward
    if horizon == "sequence":
        # Targets of a sequence lie side by side and in order: what follows is the sequence's sum
        # less what came before.
        through = reward.double().cumsum(0)
        sums = sequence_sum(reward.double(), sequence, num_sequences)
        before_sequence = sums.cumsum(0) - sums
        advantage = (sums[sequence] + before_sequence[sequence] - through + reward.double()).to(
            reward.dtype
        )
    return -advantage * logprobs, {"teacher_kl/sampled": -reward}


@losses.register(per="token")
def uld(distribution: Tensor, foreign_distribution: Tensor, aligned: Tensor) -> Tensor:
    """Universal logit distillation: teacher and student may have different tokenizers (arXiv
    2402.12030).

    l_t = aligned_t sum_i |p_(i) - q_(i)|, both sorted from likely to unlikely, the smaller
    vocabulary filled up with zeros: the Wasserstein distance of two distributions over labels that
    all are equally far apart. The teacher reads the same text in its own tokens; the t-th of them
    is compared with the student's t-th, and where it has none aligned_t is 0. Log-probs [m, V], [m,
    V'], aligned [m] -> [m], between 0 and 2. Usually added to nll with a weight of 1.5.
    """
    p = distribution.exp().sort(-1, descending=True).values
    q = foreign_distribution.exp().sort(-1, descending=True).values
    shared = min(p.shape[-1], q.shape[-1])
    distance = (
        (p[:, :shared] - q[:, :shared]).abs().sum(-1)
        + p[:, shared:].sum(-1)
        + q[:, shared:].sum(-1)
    )
    return aligned * distance


def _prepared(
    teacher: Tensor, student: Tensor, temperature: float, top_k: int
) -> tuple[Tensor, Tensor]:
    """The two log-distributions that are compared, [m, V] or [m, k + 1]."""
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}; it must be above 0")
    if top_k < 0:
        raise ValueError(f"top_k is {top_k}; it must be at least 1, or 0 for the whole vocabulary")
    if temperature != 1:  # log-probs differ from logits by a constant, which the softmax takes out
        teacher, student = (torch.log_softmax(x / temperature, -1) for x in (teacher, student))
    if not top_k or top_k >= teacher.shape[-1]:
        return teacher, student
    likeliest = teacher.topk(top_k, dim=-1).indices
    return _binned(teacher, likeliest), _binned(student, likeliest)


def _binned(logprobs: Tensor, tokens: Tensor) -> Tensor:
    """Log-probs [m, k + 1] of the tokens [m, k] and of all others together."""
    rest = logprobs.scatter(-1, tokens, -math.inf).logsumexp(-1, keepdim=True)
    return torch.cat([logprobs.gather(-1, tokens), rest], -1)


def _kl(first: Tensor, second: Tensor) -> Tensor:
    """KL(first || second) of log-probs [m, V] -> [m]."""
    return (first.exp() * (first - second)).sum(-1)


def _metrics(teacher: Tensor, student: Tensor) -> dict[str, Tensor]:
    """How far the student is from the teacher, whatever the loss: both KLs over the whole
    vocabulary at temperature 1.
    """
    student = student.detach()
    return {
        "teacher_kl/forward": _kl(teacher, student),
        "teacher_kl/reverse": _kl(student, teacher),
    }
