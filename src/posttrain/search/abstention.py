"""Searches that give no answer where they would be wrong too often, and the bound to set them by.

    votes: share of the samples that gave the first answer;  answer iff share >= threshold
    calibration: the smallest threshold with P(wrong | answered) <= max_risk, with confidence 1 - d

`calibrate_threshold` chooses the threshold on problems whose answers are known. Those of other
problems, from the same distribution, are then wrong no more often.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from posttrain.errors import ConfigError
from posttrain.registry import searches
from posttrain.search.base import Selection, select
from posttrain.search.scores import best_place, scored
from posttrain.search.vote import vote

THRESHOLDS = tuple(round(0.05 * number, 2) for number in range(21))
"""Of shares: 0, 0.05, ..., 1."""


@searches.register
async def selective_vote(
    prompt, ask, extract, *, num_samples: int = 8, threshold: float = 0.5
) -> Selection:
    """A majority vote that abstains where its answer has a smaller share of the samples than the
    threshold.

    Samples without an answer count in the share. `posttrain.search.abstention.calibrate_threshold`
    chooses the threshold for a stated risk from shares (note share) and verdicts of known problems.
    Threshold 0 is majority_vote.

    num_samples: samples that vote. threshold: smallest share that is answered, from 0 to 1.
    """
    candidates = await ask(prompt, num_samples)
    selection = vote(candidates, [1.0] * num_samples, extract)
    share = selection.votes.get(selection.answer or "", 0.0) / num_samples
    return _kept(selection, share, threshold)


@searches.register
async def selective_best_of_n(
    prompt, ask, extract, score, *, num_samples: int = 8, threshold: float = 0.5
) -> Selection:
    """Best-of-N that abstains where the highest score is below the threshold.

    num_samples: samples. threshold: smallest score that is answered; see `selective_vote` for how
    it is chosen, with the scores (note share) in place of shares.
    """
    candidates = await scored(await ask(prompt, num_samples), score)
    best = best_place(candidates)
    return _kept(select(candidates, best, extract), candidates[best].score or 0.0, threshold)


def _kept(selection: Selection, share: float, threshold: float) -> Selection:
    """The selection, which abstains below the threshold."""
    selection.notes |= {"share": share, "abstained": float(share < threshold)}
    if share < threshold:
        selection.abstained, selection.answer = True, None
    return selection


@dataclass(frozen=True, slots=True)
class Threshold:
    """A threshold that keeps a risk.

    threshold: of `selective_vote` or `selective_best_of_n`; infinite where no threshold keeps the
    risk: then abstain from all. coverage: share of the calibration's problems that are answered.
    error_rate: share of those that are wrong. error_bound: what their expected share does not
    exceed, with the confidence asked for. num_answered: how many were answered.
    """

    threshold: float
    coverage: float
    error_rate: float
    error_bound: float
    num_answered: int


def calibrate_threshold(
    shares: ArrayLike,
    correct: ArrayLike,
    *,
    max_risk: float,
    confidence: float = 0.95,
    thresholds: Sequence[float] = THRESHOLDS,
) -> Threshold:
    """The smallest threshold whose answers are wrong with at most probability max_risk.

        n_t = #{i : share_i >= t},  e_t = #{i : share_i >= t, wrong}
        keep t iff P(Binomial(n_t, max_risk) <= e_t) <= (1 - confidence) / number of thresholds

    Learn then test (Angelopoulos et al., arXiv 2110.01052) with exact binomial tests and
    Bonferroni's correction: with probability `confidence` over the calibration, each threshold that
    is kept has a risk P(wrong | share >= t) of at most max_risk, so that the choice among them is
    free. This holds for any number of problems that are drawn independently, and for thresholds
    that were fixed before.

    Args:
        shares [Q]: of vote, or scores. correct [Q]: whether the answer was right, 0 or 1.
        thresholds: that are tried; of scores give your own.

    Raises:
        ConfigError: no problem, lengths that differ, a risk or confidence that is not between 0
            and 1.
    """
    x, right = np.asarray(shares, dtype=np.float64), np.asarray(correct, dtype=bool)
    if x.ndim != 1 or x.shape != right.shape or not len(x) or not len(thresholds):
        raise ConfigError(
            f"calibrate_threshold: {x.shape} shares, {right.shape} verdicts and {len(thresholds)} "
            "thresholds; give one share and one verdict per problem, and at least one of each"
        )
    if not 0 < max_risk < 1 or not 0 < confidence < 1:
        raise ConfigError(
            f"calibrate_threshold: max_risk is {max_risk} and confidence {confidence}; both must "
            "be between 0 and 1"
        )
    level = (1 - confidence) / len(thresholds)
    for threshold in sorted(thresholds):
        answered = x >= threshold
        number, wrong = int(answered.sum()), int((answered & ~right).sum())
        if number and binomial_tail(wrong, number, max_risk) <= level:
            bound = clopper_pearson_upper(wrong, number, 1 - level)
            return Threshold(threshold, number / len(x), wrong / number, bound, number)
    return Threshold(math.inf, 0.0, math.nan, math.nan, 0)


def binomial_tail(successes: int, n: int, p: float) -> float:
    """P(Binomial(n, p) <= successes), by the exact terms in float64."""
    if p <= 0:
        return 1.0
    if p >= 1:
        return float(successes >= n)
    log_p, log_q = math.log(p), math.log1p(-p)
    terms = (
        math.exp(
            math.lgamma(n + 1)
            - math.lgamma(k + 1)
            - math.lgamma(n - k + 1)
            + k * log_p
            + (n - k) * log_q
        )
        for k in range(min(successes, n) + 1)
    )
    return min(1.0, math.fsum(terms))


def clopper_pearson_upper(successes: int, n: int, confidence: float = 0.95) -> float:
    """The one-sided upper bound of a proportion (Clopper and Pearson 1934).

    The p with P(Binomial(n, p) <= successes) = 1 - confidence, by bisection; 1 where all succeed.
    """
    if successes >= n:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if binomial_tail(successes, n, middle) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high
