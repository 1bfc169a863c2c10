"""Which strategy is best for problems of a difficulty at a budget: chosen, and cross-fitted."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posttrain.errors import ConfigError
from posttrain.evaluation.statistics import (
    Difference,
    Interval,
    mean_interval,
    paired_bootstrap,
)
from posttrain.search.policy import Choice, Rule

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Trials:
    """Strategies on the same problems at one budget, all with the pilot.

    choices: S strategies. correct, tokens: [S, Q]. difficulty: [Q], by the pilot.
    """

    choices: Sequence[Choice]
    correct: Numbers
    tokens: Numbers
    difficulty: Numbers

    def of(self, places: NDArray[np.int64]) -> Trials:
        """Those of some problems."""
        return Trials(
            self.choices,
            self.correct[:, places],
            self.tokens[:, places],
            self.difficulty[places],
        )


@dataclass(frozen=True, slots=True)
class CrossFit:
    """What a policy is worth on problems that did not choose it.

    policy, fixed: accuracy of the policy, and of the one best strategy for all problems, both
    chosen on the other fold. gain: policy - fixed on the same problems. tokens: of the policy, per
    problem, the pilot's included.
    """

    policy: Interval
    fixed: Interval
    gain: Difference
    tokens: float


def fit_rule(trials: Trials, num_bins: int) -> Rule:
    """The rule of one budget: bins by quantiles of difficulty, in each the strategy with the
    highest mean accuracy; ties go to fewer tokens, then to the order given.

    Equal quantiles are one edge, so that there may be fewer bins.

    Raises:
        ConfigError: num_bins below 1.
    """
    if num_bins < 1:
        raise ConfigError(f"num_bins: {num_bins} must be at least 1")
    shares = np.arange(1, num_bins) / num_bins
    quantiles = np.unique(np.quantile(trials.difficulty, shares)) if num_bins > 1 else np.array([])
    edges = [float(edge) for edge in quantiles if edge > trials.difficulty.min()]
    bins = np.searchsorted(edges, trials.difficulty, side="right")
    choices = tuple(
        trials.choices[best_of(trials, np.flatnonzero(bins == place))]
        for place in range(len(edges) + 1)
    )
    return Rule(tuple(edges), choices)


def best_of(trials: Trials, places: NDArray[np.int64]) -> int:
    """The strategy with the highest mean accuracy on some problems; of all where there are none."""
    part = trials.of(places) if len(places) else trials
    accuracy, tokens = part.correct.mean(axis=1), part.tokens.mean(axis=1)
    return min(range(len(accuracy)), key=lambda s: (-accuracy[s], tokens[s], s))


def cross_fit(trials: Trials, ids: Sequence[str], num_bins: int) -> CrossFit:
    """Two-fold cross-fitted estimate: each half is answered by what the other half chose.

    ids: of the problems; the folds follow from them.

    Raises:
        ConfigError: fewer than 4 problems.
    """
    if len(ids) < 4:
        raise ConfigError(f"a policy is fitted on {len(ids)} problems; give at least 4")
    order = sorted(range(len(ids)), key=lambda i: _hash(ids[i]))
    folds = [np.array(sorted(order[part::2]), dtype=np.int64) for part in (0, 1)]
    chosen = np.zeros(len(ids), dtype=np.int64)
    fixed = np.zeros(len(ids), dtype=np.int64)
    for fold, other in ((folds[0], folds[1]), (folds[1], folds[0])):
        train = trials.of(other)
        rule = fit_rule(train, num_bins)
        fixed[fold] = best_of(train, np.arange(len(other)))
        for place in fold:
            choice = rule.choice(float(trials.difficulty[place]))[1]
            chosen[place] = list(trials.choices).index(choice)
    every = np.arange(len(ids))
    values, alone = trials.correct[chosen, every], trials.correct[fixed, every]
    return CrossFit(
        mean_interval(values),
        mean_interval(alone),
        paired_bootstrap(alone, values),
        float(trials.tokens[chosen, every].mean()),
    )


def _hash(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=8).digest()


def record_of(fits: Mapping[int, CrossFit]) -> dict[str, dict[str, float]]:
    """The estimates as plain values, by budget."""
    return {
        str(budget): {
            "accuracy": fit.policy.estimate,
            "low": fit.policy.low,
            "high": fit.policy.high,
            "fixed_accuracy": fit.fixed.estimate,
            "gain": fit.gain.estimate,
            "gain_low": fit.gain.low,
            "gain_high": fit.gain.high,
            "tokens": fit.tokens,
            "problems": float(fit.policy.n),
        }
        for budget, fit in sorted(fits.items())
    }
