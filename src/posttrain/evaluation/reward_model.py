"""How good scores are: on pairs, on labels, on steps, and in choosing the best of several
completions. Plain numpy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posttrain.data.forest import TokenSequence
from posttrain.data.scored import Kind
from posttrain.evaluation.statistics import Interval, mean_interval

Numbers = NDArray[np.float64]


def sigmoid(x: ArrayLike) -> Numbers:
    """1 / (1 + e^-x), without overflow."""
    return np.exp(-np.logaddexp(0, -np.asarray(x, dtype=np.float64)))


def preferred(chosen: ArrayLike, rejected: ArrayLike) -> Numbers:
    """1 where the chosen one has the higher score, 1/2 where they tie, else 0: [Q]."""
    c, r = np.asarray(chosen, dtype=np.float64), np.asarray(rejected, dtype=np.float64)
    return (c > r) + 0.5 * (c == r)


def auc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Probability that a right one has a higher score than a wrong one, ties by half
    (Mann-Whitney); NaN with one class.
    """
    x, y = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.float64) > 0.5
    if y.all() or not y.any():
        return math.nan
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # ties share their mean rank
    positive = int(y.sum())
    return float(
        (ranks[y].sum() - positive * (positive + 1) / 2) / (positive * (len(y) - positive))
    )


def brier(probabilities: ArrayLike, outcomes: ArrayLike) -> float:
    """Mean squared distance of probabilities from what came true (Brier 1950): 1/4 for a
    constant 1/2.
    """
    return float(
        np.mean(
            (np.asarray(probabilities, dtype=np.float64) - np.asarray(outcomes, dtype=np.float64))
            ** 2
        )
    )


def calibration_error(probabilities: ArrayLike, outcomes: ArrayLike, num_bins: int = 10) -> float:
    """Expected calibration error (arXiv 1706.04599): sum over equal bins of n_b / n |mean
    outcome - mean probability|.
    """
    p, y = np.asarray(probabilities, dtype=np.float64), np.asarray(outcomes, dtype=np.float64)
    bins = np.minimum((p * num_bins).astype(int), num_bins - 1)
    gaps = np.bincount(bins, y - p, minlength=num_bins)  # n_b (mean outcome - mean probability)
    return float(np.abs(gaps).sum() / len(p))


def pair_calibration(
    chosen: ArrayLike, rejected: ArrayLike, num_bins: int = 10
) -> tuple[float, float]:
    """Calibration error and Brier score of s(chosen - rejected) as the probability of the
    preference.

    Each pair is looked at from both sides, since which of the two stands first means nothing; else
    a model could be calibrated by being sure of itself.
    """
    p = sigmoid(np.asarray(chosen, dtype=np.float64) - np.asarray(rejected, dtype=np.float64))
    both, truth = np.concatenate([p, 1 - p]), np.repeat([1.0, 0.0], len(p))
    return calibration_error(both, truth, num_bins), brier(both, truth)


def correlation(x: ArrayLike, y: ArrayLike) -> float:
    """Pearson's correlation; NaN where one of them is constant."""
    a, b = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if len(a) < 2 or a.std() == 0 or b.std() == 0:
        return math.nan
    return float(np.corrcoef(a, b)[0, 1])


def epic_distance(first: ArrayLike, second: ArrayLike, gamma: float = 1.0) -> float:
    """How differently two rewards rank policies, from 0 (the same) to 1 (opposite): EPIC (arXiv
    2006.13900).

    Rewards [S, A, S'] of transitions, all equally likely. C(R)(s, a, s') = R(s, a, s') + E[gamma
    R(s', A, S') - R(s, A, S') - gamma R(S, A, S')] takes potential shaping away; the distance is
    sqrt((1 - r) / 2), r the correlation of C(first) and C(second), so that scale does not count.
    Where a completion ends the episode, [prompts, completions] will do: gamma is then 0, and a
    number that a reward adds to all completions of a prompt does not count. NaN where a reward is
    constant.
    """
    canonical = []
    for table in (np.asarray(x, dtype=np.float64) for x in (first, second)):
        mean = table.mean(axis=tuple(range(1, table.ndim)))  # of what follows each state
        shaped = table - mean.reshape(-1, *[1] * (table.ndim - 1))
        canonical.append(
            (shaped if table.ndim == 2 else shaped + gamma * (mean - mean.mean())).ravel()
        )
    agreement = correlation(*canonical)
    return agreement if math.isnan(agreement) else math.sqrt(max(0.0, 1 - agreement) / 2)


def kl_best_of(n: int) -> float:
    """Bound of KL(best-of-N || policy) in nats: log N - (N - 1) / N (arXiv 2401.01879)."""
    return math.log(n) - (n - 1) / n


def best_of(scores: ArrayLike, gold: ArrayLike, k: int) -> Numbers:
    """Expected gold reward of the best by score of k of a prompt's N samples: [P, N], [P, N] ->
    [P].

    Exact over all subsets without replacement: the sample of rank r from below is the best of C(r -
    1, k - 1) of the C(N, k). Samples with equal scores share their places.
    """
    s, g = np.asarray(scores, dtype=np.float64), np.asarray(gold, dtype=np.float64)
    n = s.shape[1]
    if not 1 <= k <= n:
        return np.full(len(s), math.nan)
    weights = np.array([math.comb(r, k - 1) / math.comb(n, k) for r in range(n)])
    means = np.empty(len(s))
    for row in range(len(s)):
        order = np.argsort(s[row], kind="stable")
        _, tie = np.unique(s[row][order], return_inverse=True)
        shared = np.bincount(tie, g[row][order]) / np.bincount(tie)
        means[row] = weights @ shared[tie]
    return means


def best_of_curve(scores: ArrayLike, gold: ArrayLike) -> list[dict[str, float]]:
    """Gold reward and score of the best of N by score for N = 1, 2, 4, ..., with the KL bound;
    ceiling: the best by gold.

    Where gold falls while the score rises with N, the score is being exploited (arXiv 2210.10760).
    """
    n = np.asarray(scores).shape[1]
    curve = []
    for k in (2**i for i in range(n.bit_length()) if 2**i <= n):
        gained = mean_interval(best_of(scores, gold, k))
        curve.append(
            {
                "n": k,
                "kl": kl_best_of(k),
                "gold": gained.estimate,
                "low": gained.low,
                "high": gained.high,
                "score": float(best_of(scores, scores, k).mean()),
                "ceiling": float(best_of(gold, gold, k).mean()),
            }
        )
    return curve


def first_error(step_scores: ArrayLike, threshold: float = 0.5) -> int | None:
    """Index of the first step whose probability of being right is below the threshold; None
    where there is none.
    """
    wrong = np.flatnonzero(np.asarray(step_scores, dtype=np.float64) < threshold)
    return int(wrong[0]) if len(wrong) else None


def error_location(
    first_errors: Sequence[int | None], truth: Sequence[int | None]
) -> dict[str, float]:
    """ProcessBench's measure (arXiv 2412.06559): how often the first error is found where it is,
    and right solutions pass.

    error: share of the wrong solutions whose first error is named exactly. correct: share of the
    right ones called so. f1: their harmonic mean; NaN where one kind is missing.
    """
    wrong = [f == t for f, t in zip(first_errors, truth, strict=True) if t is not None]
    right = [f is None for f, t in zip(first_errors, truth, strict=True) if t is None]
    error, correct = (float(np.mean(x)) if x else math.nan for x in (wrong, right))
    total = error + correct
    return {
        "error": error,
        "correct": correct,
        "f1": 2 * error * correct / total if total else 0.0 if total == 0 else math.nan,
    }


def measure(
    kind: Kind, trees: Sequence[Sequence[TokenSequence]], scores: Sequence[Sequence[Numbers]]
) -> dict[str, Any]:
    """What the scores of rows are worth, by the kind of rows, as plain values (`flat` gives the
    numbers alone).

    Args:
        trees: the rows' sequences, as `encode_scores` gives them. scores: of their targets, in the
        same shape.
    """
    last = [[float(s[-1]) for s in tree] for tree in scores]
    if kind == "pairs":
        return _pairs(trees, np.array(last))
    if kind == "process":
        return _process(trees, scores)
    flat = np.array([x for tree in last for x in tree])
    shared: dict[str, Any] = {
        "length_correlation": correlation(flat, [n for tree in trees for n in _lengths(tree)])
    }
    if kind == "labelled":
        labels = np.array([s.values["label"] for tree in trees for s in tree])
        p = sigmoid(flat)
        right = mean_interval(((p > 0.5) == (labels > 0.5)).astype(float))
        return {
            "accuracy": asdict(right),
            "auc": auc(flat, labels),
            "ece": calibration_error(p, labels),
            "brier": brier(p, labels),
            **shared,
        }
    rewards = [[s.values["reward"] for s in tree] for tree in trees]
    if kind == "rewarded":
        truth = np.array([x for tree in rewards for x in tree])
        return {
            "mse": float(np.mean((flat - truth) ** 2)),
            "correlation": correlation(flat, truth),
            **shared,
        }
    ordered = [_ordered(x, y) for x, y in zip(last, rewards, strict=True)]
    top = [
        preferred(y[int(np.argmax(x))], max(y)) == 0.5 for x, y in zip(last, rewards, strict=True)
    ]
    return {
        "accuracy": asdict(mean_interval(ordered)),
        "best": asdict(mean_interval(np.array(top, dtype=float))),
        **shared,
    }


def flat(measured: dict[str, Any]) -> dict[str, float]:
    """The numbers of `measure`, intervals by their estimates, without those that are not
    defined.
    """
    numbers = {k: v["estimate"] if isinstance(v, dict) else v for k, v in measured.items()}
    return {k: float(v) for k, v in numbers.items() if math.isfinite(v)}


def _lengths(tree: Sequence[TokenSequence]) -> list[float]:
    """Tokens of each completion: prompts differ from row to row, and their length is no work of
    the completion.
    """
    return [s.values["completion_length"] for s in tree]


def _pairs(trees: Sequence[Sequence[TokenSequence]], scores: Numbers) -> dict[str, Any]:
    chosen, rejected = scores[:, 0], scores[:, 1]
    lengths = np.array([_lengths(tree) for tree in trees])
    won = preferred(chosen, rejected)
    ece, squared = pair_calibration(chosen, rejected)
    longer: Interval = mean_interval(won[lengths[:, 1] > lengths[:, 0]])
    shorter: Interval = mean_interval(won[lengths[:, 1] < lengths[:, 0]])
    return {
        "accuracy": asdict(mean_interval(won)),
        "margin": float((chosen - rejected).mean()),
        "ece": ece,
        "brier": squared,
        "length_correlation": correlation(scores.ravel(), lengths.ravel()),
        "accuracy_rejected_longer": asdict(longer),
        "accuracy_rejected_shorter": asdict(shorter),
    }


def _process(
    trees: Sequence[Sequence[TokenSequence]], scores: Sequence[Sequence[Numbers]]
) -> dict[str, Any]:
    labels = [s.streams["labels"][s.loss_mask] for tree in trees for s in tree]
    steps = [sigmoid(x) for tree in scores for x in tree]
    p, y = np.concatenate(steps), np.concatenate(labels)
    # Steps of one solution hang together: the solution is the unit of the interval.
    right = [float(np.mean((a > 0.5) == (b > 0.5))) for a, b in zip(steps, labels, strict=True)]
    location = error_location([first_error(x) for x in steps], [first_error(x) for x in labels])
    return {
        "accuracy": asdict(mean_interval(right)),
        "auc": auc(p, y),
        "ece": calibration_error(p, y),
        "brier": brier(p, y),
        **{f"first_error_{k}": v for k, v in location.items()},
    }


def _ordered(scores: Sequence[float], rewards: Sequence[float]) -> float:
    """Share of the comparable pairs that the scores order rightly."""
    s, r = np.array(scores), np.array(rewards)
    first, second = np.nonzero(r[:, None] > r[None, :])
    return float(preferred(s[first], s[second]).mean())
