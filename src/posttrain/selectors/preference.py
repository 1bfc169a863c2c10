"""Preferences: which completions of which prompts are worth a comparison.

A selector of pairs gets the rewards of an ensemble, r [P, G, E], of G completions of each prompt.
Their mean m and standard deviation s over the ensemble stand for a posterior.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from posttrain.registry import selectors
from posttrain.selectors.ranking import Numbers, Places, highest


@selectors.register(selects="pair")
def delta_ucb(ensemble_rewards: Any, num: int, *, width: float = 1.0) -> Places:
    """DeltaUCB: the pair of the largest optimistic gap, argmax_ij (m_i + w s_i) - (m_j - w s_j).

    Of each prompt its widest pair, and the prompts with the widest pairs first. From the idea of
    ActiveUltraFeedback (arXiv 2603.09692) that pairs with a large predicted gap teach DPO most;
    its exact bound may differ.

    width: standard deviations w that the bounds lie from the means.
    """
    mean, deviation = _posterior(ensemble_rewards)
    better, worse = (mean + width * deviation).argmax(1), (mean - width * deviation).argmin(1)
    return _pairs(mean, deviation, better, worse, num, width)


@selectors.register(selects="pair")
def drts(ensemble_rewards: Any, num: int, rng: Any) -> Places:
    """DRTS, double reversed Thompson sampling: the best completion of one draw from the posterior
    against the worst of another.

    r' and r'' are the rewards of two members, drawn for each prompt: i = argmax r', j = argmin r''.
    Prompts are ordered by the gap r'_i - r''_j. From the idea of ActiveUltraFeedback (arXiv
    2603.09692), with the ensemble as the posterior.
    """
    rewards = np.asarray(ensemble_rewards, dtype=np.float64)
    places = np.arange(len(rewards))
    first, second = rng.integers(rewards.shape[2], size=(2, len(rewards)))
    one, other = rewards[places, :, first], rewards[places, :, second]
    better, worse = one.argmax(1), other.argmin(1)
    worse = _apart(other, better, worse)
    gaps = one[places, better] - other[places, worse]
    chosen = highest(gaps, num)
    return np.stack([chosen, better[chosen], worse[chosen]], axis=1)


@selectors.register(selects="pair")
def closest_pair(ensemble_rewards: Any, num: int) -> Places:
    """The pair whose preference is least certain: argmin_{i, j} |m_i - m_j| (Bradley-Terry margin;
    Muldrew et al. call its opposite certainty, arXiv 2402.08114).
    """
    mean, _ = _posterior(ensemble_rewards)
    return _extreme_pairs(mean, num, widest=False)


@selectors.register(selects="pair")
def apl(prompt_entropies: Any, ensemble_rewards: Any, num: int, *, oversample: int = 4) -> Places:
    """APL: prompts with the highest policy entropy, then of these the pairs with the largest
    |r_1 - r_2| (arXiv 2402.08114, section 4.3).

    oversample: prompts of high entropy for each that is chosen.
    """
    wide = highest(prompt_entropies, oversample * num)
    mean, _ = _posterior(np.asarray(ensemble_rewards, dtype=np.float64)[wide])
    pairs = _extreme_pairs(mean, num, widest=True)
    pairs[:, 0] = wide[pairs[:, 0]]
    return pairs


@selectors.register(selects="pair")
def random_pair(num_candidates: int, num_completions: int, num: int, rng: Any) -> Places:
    """Two completions of a prompt, both drawn with equal probability: the baseline of pairs."""
    prompts = rng.permutation(num_candidates)[:num]
    pairs = [rng.permutation(num_completions)[:2] for _ in prompts]
    return np.column_stack([prompts, np.array(pairs, dtype=np.int64).reshape(-1, 2)])


def _posterior(ensemble_rewards: Any) -> tuple[Numbers, Numbers]:
    rewards = np.asarray(ensemble_rewards, dtype=np.float64)
    return rewards.mean(2), rewards.std(2)


def _apart(rewards: Numbers, better: Any, worse: Any) -> Any:
    """The worst completion that is not the better one."""
    masked = rewards.copy()
    masked[np.arange(len(rewards)), better] = np.inf
    return np.where(worse == better, masked.argmin(1), worse)


def _pairs(
    mean: Numbers, deviation: Numbers, better: Any, worse: Any, num: int, width: float
) -> Places:
    places = np.arange(len(mean))
    low, high = mean - width * deviation, mean + width * deviation
    worse = _apart(low, better, worse)
    chosen = highest(high[places, better] - low[places, worse], num)
    return np.stack([chosen, better[chosen], worse[chosen]], axis=1)


def _extreme_pairs(mean: Numbers, num: int, *, widest: bool) -> Places:
    """Of each prompt the pair whose means are farthest apart, or nearest."""
    order = np.argsort(-mean, axis=1, kind="stable")
    ordered = np.take_along_axis(mean, order, axis=1)
    if widest:
        at = np.zeros(len(mean), dtype=np.int64)
        gaps, last = ordered[:, 0] - ordered[:, -1], np.full(len(mean), mean.shape[1] - 1)
    else:
        steps = ordered[:, :-1] - ordered[:, 1:]
        at = steps.argmin(1)
        gaps, last = -steps.min(1), at + 1
    chosen = highest(gaps, num)
    return np.stack([chosen, order[chosen, at[chosen]], order[chosen, last[chosen]]], axis=1)
