"""Losses of likelihood."""

from __future__ import annotations

from torch import Tensor

from posttrain.registry import losses


@losses.register(per="token")
def nll(logprobs: Tensor) -> Tensor:
    """Negative log-likelihood, the loss of supervised fine-tuning and pre-training.

    l_t = -log pi(y_t | x, y_<t), in nats; logprobs [M] -> [M].
    """
    return -logprobs


@losses.register(per="token")
def dft(logprobs: Tensor) -> Tensor:
    """Dynamic fine-tuning: likelihood weighted by the model's own probability, with the weight held
    constant.

    l_t = -sg[pi(y_t)] log pi(y_t). Its gradient is -grad pi(y_t): rare tokens no longer dominate
    (arXiv 2508.05629). logprobs [M] -> [M].
    """
    return -logprobs.detach().exp() * logprobs


@losses.register(per="token")
def label_smoothing(distribution: Tensor, target: Tensor, *, epsilon: float = 0.1) -> Tensor:
    """Negative log-likelihood of a target smoothed over the vocabulary (Szegedy et al., arXiv
    1512.00567).

    l_t = -(1 - epsilon) log p(y_t) - epsilon / V sum_v log p_v. Log-probs [m, V], target [m] ->
    [m], nats.
    """
    if not 0 <= epsilon < 1:
        raise ValueError(
            f"epsilon is {epsilon}; it is the share of probability that is spread out, at least 0 "
            "and below 1"
        )
    chosen = distribution.gather(-1, target[:, None])[:, 0]
    return -(1 - epsilon) * chosen - epsilon * distribution.mean(-1)


@losses.register(per="token")
def given_nll(logprobs: Tensor, given: Tensor) -> Tensor:
    """Likelihood of tokens that were given beside those that were sampled: l_t = -given_t log
    pi(y_t).

    The average is over the given tokens alone, as those of the other losses are over the sampled
    ones. It is the pretraining term of PPO-ptx (InstructGPT, arXiv 2203.02155; mix_data) and the
    cross-entropy on gold prefixes of MIXER (arXiv 1511.06732; given_steps). logprobs, given [M] ->
    [M].
    """
    return -given * logprobs
