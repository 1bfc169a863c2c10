"""Losses of completions that were sampled and rewarded beforehand, by whatever policy.

R is the reward of a whole completion (`reward` [S]); V(s_t) the critic's value of the state in
which token t was chosen (`values` [M]); c_t = log pi(y_t) - log ref(y_t), in nats. beta is the
weight of KL(pi || ref) in what is maximised, E[R] - beta KL. At its optimum V(s_t) = R - beta
sum_{i>=t} c_i holds on every trajectory, and so V(s_0) = beta log E_ref exp(R / beta).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from posttrain.losses.inputs import Metrics
from posttrain.losses.reduce import sequence_mean, sequence_sum
from posttrain.losses.settings import check_positive
from posttrain.registry import losses

Level = Literal["token", "step", "sequence"]


def _actions(sequence: Tensor, step: Tensor, level: Level) -> tuple[Tensor, Tensor]:
    """Which action each target belongs to [M] (0, 1, ... in order), and each action's first target
    [A].

    An action is a token, a step or a whole completion; targets of a sequence lie in order, side by
    side.
    """
    new = torch.ones_like(sequence, dtype=torch.bool)
    if level != "token":
        new[1:] = sequence[1:] != sequence[:-1]
    if level == "step":
        new[1:] |= step[1:] != step[:-1]
    return new.cumsum(0) - 1, torch.nonzero(new)[:, 0]


def _sum_to_end(values: Tensor, sequence: Tensor, num_sequences: int) -> Tensor:
    """Sum of values [A] from each place to the end of its sequence -> [A], itself included."""
    wide = (
        values.double()
    )  # a long row of sequences is summed as one, so that rounding has to be far below each part
    later = torch.bincount(sequence, minlength=num_sequences).cumsum(0)[sequence]
    before = torch.cat([wide.new_zeros(1), wide.cumsum(0)])
    return (before[later] - before[:-1]).to(values.dtype)


def _consistency(
    logprobs: Tensor,
    ref_logprobs: Tensor,
    values: Tensor,
    reward: Tensor,
    step: Tensor,
    sequence: Tensor,
    num_sequences: int,
    level: Level,
    beta: float,
) -> tuple[Tensor, Tensor]:
    """V(s) - R + beta (c + sg[sum of the later c]) of each action [A], and the action's sequence
    [A].

    The gradient reaches the log-probs of the action itself, and V.
    """
    action, first = _actions(sequence, step, level)
    of = sequence[first]
    ratios = torch.zeros(len(first), dtype=logprobs.dtype, device=logprobs.device).index_add(
        0, action, logprobs - ref_logprobs
    )
    later = (_sum_to_end(ratios, of, num_sequences) - ratios).detach()
    return values[first] - reward[of] + beta * (ratios + later), of


@losses.register(per="sequence")
def oreo_policy(
    logprobs: Tensor,
    ref_logprobs: Tensor,
    values: Tensor,
    reward: Tensor,
    step: Tensor,
    sequence: Tensor,
    num_sequences: int,
    *,
    beta: float = 0.03,
    level: Level = "token",
) -> tuple[Tensor, Metrics]:
    """The policy's loss of OREO, offline reasoning optimisation (arXiv 2412.16145); train it beside
    `oreo_value`.

    l = mean_t (sg[V(s_t)] - R + beta (c_t + sg[sum_{i>t} c_i]))^2 over the actions t of a
    completion, whose mean over the completions is taken. An action is a token, a step (a line, see
    the method's step_separator) or (sequence) the whole completion, as in DRO (arXiv 2405.19107).
    The paper adds 0.01 KL(pi || ref): {name: reference_kl, weight: 0.01}. Failures are learnt from
    as well as successes. logprobs, ref_logprobs, values, step [M], reward [S] -> [S].
    """
    gap, of = _consistency(
        logprobs, ref_logprobs, values.detach(), reward, step, sequence, num_sequences, level, beta
    )
    log_ratio = sequence_sum((logprobs - ref_logprobs).detach(), sequence, num_sequences)
    metrics = {"oreo/implied_reward": beta * log_ratio, "oreo/reward": reward}
    return sequence_mean(gap.square(), of, num_sequences), metrics


@losses.register(per="sequence")
def oreo_value(
    logprobs: Tensor,
    ref_logprobs: Tensor,
    values: Tensor,
    reward: Tensor,
    step: Tensor,
    sequence: Tensor,
    num_sequences: int,
    *,
    beta: float = 0.03,
    level: Level = "token",
) -> tuple[Tensor, Metrics]:
    """The critic's loss of OREO (arXiv 2412.16145), beside `oreo_policy` with the same beta and
    level.

    l = mean_t (V(s_t) - R + beta sg[sum_{i>=t} c_i])^2: the policy gets no gradient from it.
    logprobs, ref_logprobs, values, step [M], reward [S] -> [S].
    """
    gap, of = _consistency(
        logprobs.detach(), ref_logprobs, values, reward, step, sequence, num_sequences, level, beta
    )
    return sequence_mean(gap.square(), of, num_sequences), {"oreo/value": values.detach()}


@losses.register(per="token")
def reference_kl(reverse_kl: Tensor) -> tuple[Tensor, Metrics]:
    """KL(pi || ref) over the whole vocabulary, exact, at every target: l_t = sum_v pi_v log(pi_v /
    ref_v).

    Unlike the estimates of `kl` it needs no samples of the present policy. reverse_kl [M], nats ->
    [M].
    """
    return reverse_kl, {"kl": reverse_kl.detach()}


@losses.register(per="token")
def value_regression(values: Tensor, reward: Tensor, sequence: Tensor) -> tuple[Tensor, Metrics]:
    """A critic of the return: l_t = (V(s_t) - R)^2, for `awr_critic`. values [M], reward [S] ->
    [M].
    """
    gap = values - reward[sequence]
    return gap.square(), {"values": values.detach()}


@losses.register(per="token")
def awr(
    logprobs: Tensor, advantages: Tensor, *, beta: float = 1.0, max_weight: float = 20.0
) -> tuple[Tensor, Metrics]:
    """Advantage-weighted regression (arXiv 1910.00177): l_t = -min(exp(A / beta), max_weight) log
    pi(y_t).

    A is the completion's reward less the mean of its prompt's or of the data (baseline of method
    offline); with baseline none A = R, which is reward-weighted regression (Peters and Schaal,
    2007). logprobs, advantages [M] -> [M].
    """
    return _weighted(logprobs, advantages, beta, max_weight)


@losses.register(per="token")
def awr_critic(
    logprobs: Tensor,
    values: Tensor,
    reward: Tensor,
    sequence: Tensor,
    *,
    beta: float = 1.0,
    max_weight: float = 20.0,
) -> tuple[Tensor, Metrics]:
    """Advantage-weighted regression with a critic (arXiv 1910.00177), trained beside it by
    `value_regression`.

    l_t = -min(exp((R - sg[V(s_t)]) / beta), max_weight) log pi(y_t). logprobs, values [M], reward
    [S] -> [M].
    """
    return _weighted(logprobs, reward[sequence] - values.detach(), beta, max_weight)


def _weighted(
    logprobs: Tensor, advantages: Tensor, beta: float, max_weight: float
) -> tuple[Tensor, Metrics]:
    check_positive(beta=beta)
    weight = (advantages.detach() / beta).clamp(max=80).exp()  # beyond e^80 float32 overflows
    capped = (weight > max_weight).to(logprobs.dtype)
    weight = weight.clamp(max=max_weight)
    return -weight * logprobs, {"awr/weight": weight, "awr/capped": capped}
