"""KL divergences between two models over the completions that they sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from posttrain.data.forest import Batch, TokenSequence, Tree
from posttrain.engines.torch import TorchEngine
from posttrain.errors import ConfigError
from posttrain.evaluation.forgetting import Divergence
from posttrain.evaluation.statistics import Interval, mean_interval, paired_ratio
from posttrain.models.forest_model import evaluating
from posttrain.models.language_model import LanguageModel
from posttrain.models.vocabulary import Vocabulary
from posttrain.types import Request, Sampling

MAX_TOKENS = 2048
"""Distinct tokens of a forward pass."""


def divergence(
    start: LanguageModel,
    trained: LanguageModel,
    prompts: Sequence[tuple[int, ...]],
    sampling: Sampling,
    *,
    seed: int = 0,
) -> Divergence:
    """How far a trained model is from its start on prompts.

        forward = E_{y ~ start} sum_t KL(start || trained | y_<t) / E[tokens],   reverse likewise
        with y ~ trained

    The expectation over the next token is exact; that over prefixes is over one completion per
    prompt. Intervals are over prompts.

    Args:
        prompts: token ids, a completion of each is sampled by each model.
        sampling: of the completions; its temperature also divides the logits of both models.

    Raises:
        ConfigError: there are no prompts, or sampling is greedy, where KL is not that of the
            distribution sampled from. ModelError: the vocabularies differ.
    """
    if not prompts:
        raise ConfigError("divergence: there are no prompts; give at least one")
    if sampling.temperature == 0:
        raise ConfigError(
            "divergence: temperature is 0, where nothing is sampled; set it above 0, 1 is usual"
        )
    sums = {
        name: _sums(writer, start, trained, prompts, sampling, name, seed)
        for name, writer in (("forward_kl", start), ("reverse_kl", trained))
    }
    per_completion = mean_interval(sums["reverse_kl"][0], are_shares=False)
    return Divergence(_ratio(*sums["forward_kl"]), _ratio(*sums["reverse_kl"]), per_completion)


def _ratio(values: np.ndarray, sizes: np.ndarray) -> Interval:
    d = paired_ratio(np.zeros_like(values), values, sizes)
    return Interval(d.estimate, d.low, d.high, d.n)


def _sums(
    writer: LanguageModel,
    start: LanguageModel,
    trained: LanguageModel,
    prompts: Sequence[tuple[int, ...]],
    sampling: Sampling,
    name: str,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """KL summed over each completion, and the completion's tokens: float64 [P] each."""
    requests = [Request(tuple(ids), sampling, seed=seed + i) for i, ids in enumerate(prompts)]
    samples = [group[0] for group in TorchEngine(writer).generate(requests)]
    trees = []
    for place, (ids, sample) in enumerate(zip(prompts, samples, strict=True)):
        mask = np.arange(len(ids) + len(sample.ids)) >= len(ids)
        sequence = TokenSequence(np.array([*ids, *sample.ids]), mask, row=str(place))
        trees.append(Tree.build([sequence]))
    sums, counts = np.zeros(len(prompts)), np.zeros(len(prompts))
    for forest in Batch(trees).split(MAX_TOKENS):
        values = _kl_at_targets(start, trained, forest, name, sampling.temperature)
        places = np.array([int(row) for row in forest.rows])[forest.sequence.cpu().numpy()]
        np.add.at(sums, places, values)
        np.add.at(counts, places, 1.0)
    return sums, counts


def _kl_at_targets(
    start: LanguageModel, trained: LanguageModel, forest: Any, name: str, temperature: float
) -> np.ndarray:
    """KL of the next-token distributions at each target: float64 [M], nats."""
    with torch.no_grad(), evaluating(start.hf), evaluating(trained.hf):
        rows = {
            "distribution": (
                trained.rows_at(forest.to(trained.device), sources=True),
                trained.head,
            ),
            "ref_distribution": (start.rows_at(forest.to(start.device), sources=True), start.head),
        }
        values = Vocabulary(rows, temperature).derived(name)
    return values.double().cpu().numpy()
