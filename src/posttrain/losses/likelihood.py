"""Maximum likelihood and its relatives."""

from __future__ import annotations

from posttrain.losses.inputs import PerToken
from posttrain.registry import losses


@losses.register
def nll(logprobs) -> PerToken:
    """Negative log-likelihood, the loss of supervised fine-tuning and pre-training.

    l_t = -log pi(y_t | x, y_<t), in nats; logprobs [M] -> [M].
    """
    return -logprobs


@losses.register
def dft(logprobs) -> PerToken:
    """Dynamic fine-tuning: likelihood weighted by the model's own probability, with the weight held constant.

    l_t = -sg[pi(y_t)] log pi(y_t). Its gradient is -grad pi(y_t): rare tokens no longer dominate (arXiv 2508.05629).
    logprobs [M] -> [M].
    """
    return -logprobs.detach().exp() * logprobs
