"""Metrics of K samples for each of Q questions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Answers = Sequence[str | None]


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Unbiased probability that at least one of k samples is right (Chen et al., arXiv 2107.03374).

    1 - C(n - c, k) / C(n, k) = 1 - prod_{i = n - c + 1}^{n} (1 - k / i); NaN where n < k.
    """
    if num_samples < k:
        return math.nan
    if num_samples - num_correct < k:
        return 1.0
    return 1.0 - math.prod(
        1.0 - k / i for i in range(num_samples - num_correct + 1, num_samples + 1)
    )


def pass_hat_k(num_samples: int, num_correct: int, k: int) -> float:
    """Probability that all of k samples are right: C(c, k) / C(n, k); NaN where n < k."""
    if num_samples < k:
        return math.nan
    return math.comb(num_correct, k) / math.comb(num_samples, k)


def g_pass_at_k(num_samples: int, num_correct: int, k: int, share: float) -> float:
    """Probability that at least a share of k samples are right (Liu et al., arXiv 2412.13147).

    sum_{j >= share k} C(c, j) C(n - c, k - j) / C(n, k); share 1 is pass^k, share 1 / k is pass@k.
    NaN where n < k.
    """
    if num_samples < k:
        return math.nan
    least = max(1, math.ceil(share * k - 1e-9))
    wrong = num_samples - num_correct
    ways = sum(math.comb(num_correct, j) * math.comb(wrong, k - j) for j in range(least, k + 1))
    return ways / math.comb(num_samples, k)


def mean_g_pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """G-Pass@k averaged over shares from one half to 1 (the same source); NaN where n < k.

    2 / k sum_{i = ceil(k / 2) + 1}^{k} G-Pass@k at share i / k.
    """
    every = range(math.ceil(k / 2) + 1, k + 1)
    return 2 / k * math.fsum(g_pass_at_k(num_samples, num_correct, k, i / k) for i in every)


def answer_classes(answers: Answers, same: Callable[[str, str], bool]) -> list[str | None]:
    """Each answer replaced by the first one that is equal to it, so that equal answers vote
    together.

    Equality is made transitive: what two answers have in common joins them (union-find). None stays
    None.
    """
    distinct = list(dict.fromkeys(a for a in answers if a is not None))
    parents = list(range(len(distinct)))

    def root(i: int) -> int:
        while parents[i] != i:
            i = parents[i]
        return i

    for i, j in combinations(range(len(distinct)), 2):
        a, b = root(i), root(j)
        if a != b and same(distinct[i], distinct[j]):
            parents[max(a, b)] = min(a, b)
    first = {answer: distinct[root(i)] for i, answer in enumerate(distinct)}
    return [None if a is None else first[a] for a in answers]


def vote_share(answers: Answers, correct: Sequence[bool | int]) -> float:
    """Credit of a majority vote over all given samples: 1 if the most frequent answer is right.

    Samples without an answer do not vote. Ties share the credit equally, so that the order of
    samples cannot matter.
    """
    votes = Counter(a for a in answers if a is not None)
    if not votes:
        return 0.0
    most = max(votes.values())
    winners = [a for a, n in votes.items() if n == most]
    right = {a for a, c in zip(answers, correct, strict=True) if c and a is not None}
    return sum(w in right for w in winners) / len(winners)


def majority_at_k(
    answers: Answers,
    correct: Sequence[bool | int],
    k: int,
    *,
    num_subsets: int = 200,
    seed: int = 0,
) -> float:
    """Expected credit of a majority vote over k of the n samples: exact where C(n, k) is small,
    else over seeded subsets.
    """
    n = len(answers)
    if n < k:
        return math.nan
    if k == n:
        return vote_share(answers, correct)
    if k == 1:
        return float(
            np.mean([bool(c) and a is not None for a, c in zip(answers, correct, strict=True)])
        )
    if math.comb(n, k) <= num_subsets:
        subsets = [list(s) for s in combinations(range(n), k)]
    else:
        draw = np.random.default_rng(seed)
        subsets = [draw.choice(n, size=k, replace=False).tolist() for _ in range(num_subsets)]
    return float(
        np.mean([vote_share([answers[i] for i in s], [correct[i] for i in s]) for s in subsets])
    )


def per_question(correct: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """Mean correctness of each question, [Q]."""
    return np.array([np.mean(row) for row in correct], dtype=np.float64)
