"""Best-of-N and votes with numbers that are known in advance (a simulated policy and verifier)."""

from __future__ import annotations

import math
import random
from collections import Counter

import numpy as np
import pytest

from posttrain.search.base import Candidate
from posttrain.search.best_of_n import best_of_n
from posttrain.search.vote import majority_vote, weighted_vote

WRONG = (0.4, 0.2, 0.15, 0.1, 0.1, 0.05)
"""Shares of six wrong answers among what is wrong."""

GAP = 1.5  # of the verifier, in standard deviations


@pytest.mark.parametrize("n", [16, 64])
@pytest.mark.parametrize("p", [0.15, 0.3, 0.5])
def test_strategies_reach_their_exact_columns(scripted, scores, search, p: float, n: int) -> None:
    """The three strategies against computations of their own: best-of-N by integration of the two
    normal densities, votes by draws of counts; pass@N is 1 - (1 - p)^N.
    """
    draw = random.Random(1)
    names = ["right", *"abcdef"]
    weights = [p, *((1 - p) * share for share in WRONG)]
    runs = 300
    hits: Counter[str] = Counter()
    for _ in range(runs):
        texts = draw.choices(names, weights, k=n)
        marks = [draw.gauss(GAP * (t == "right"), 1.0) for t in texts]
        worth = {str(i): 1 / (1 + math.exp(-mark)) for i, mark in enumerate(marks)}

        def write(context, k, texts=texts):
            return [Candidate((i,), f"{i} {t}", draw.random(), True) for i, t in enumerate(texts)]

        def score(c, worth=worth):
            return worth[c.text.split()[0]]

        def extract(text):
            return text.split()[1]

        given = (scripted(write), extract)
        hits["majority"] += search(majority_vote((1,), *given, num_samples=n)).answer == "right"
        hits["best"] += (
            search(best_of_n((1,), *given, scores(score), num_samples=n)).answer == "right"
        )
        weighted = weighted_vote((1,), *given, scores(score), num_samples=n)
        hits["weighted"] += search(weighted).answer == "right"
        hits["pass"] += "right" in texts
    exact = {
        "majority": majority_column(p, n),
        "best": best_column(p, n),
        "pass": 1 - (1 - p) ** n,
    }
    for name, probability in exact.items():
        error = math.sqrt(probability * (1 - probability) / runs)
        assert hits[name] / runs == pytest.approx(probability, abs=3.5 * error + 0.01), name
    assert hits["majority"] <= hits["weighted"] + 0.05 * runs  # the verifier adds to the vote


def best_column(p: float, n: int) -> float:
    """P(the highest of n scores is of a right sample) = int n p phi(x - d) F(x)^(n - 1) dx."""
    x = np.linspace(-8, 10, 6001)
    phi = np.exp(-((x - GAP) ** 2) / 2) / math.sqrt(2 * math.pi)
    erf = np.vectorize(math.erf)
    below = p * (1 + erf((x - GAP) / math.sqrt(2))) / 2 + (1 - p) * (1 + erf(x / math.sqrt(2))) / 2
    return float((n * p * phi * below ** (n - 1)).sum() * (x[1] - x[0]))


def majority_column(p: float, n: int) -> float:
    """P(right is the most frequent answer), ties by half shares, over 200,000 draws of counts."""
    shares = [p, *((1 - p) * share for share in WRONG)]
    counts = np.random.default_rng(0).multinomial(n, shares, size=200_000)
    most = counts.max(axis=1)
    tied = (counts == most[:, None]).sum(axis=1)
    return float(((counts[:, 0] == most) / tied).mean())


FIGURES = {
    (0.15, 16): (0.085, 0.632, 0.93),
    (0.15, 64): (0.010, 0.829, 1.0),
    (0.3, 16): (0.501, 0.845, 0.997),
    (0.3, 64): (0.566, 0.939, 1.0),
    (0.5, 64): (0.999, 0.982, 1.0),
}
"""(p, N) -> majority, best-of-N, pass@N of an independent simulation of some thousand draws."""


@pytest.mark.parametrize(("p", "n"), FIGURES)
def test_the_exact_columns_are_the_known_figures(p: float, n: int) -> None:
    columns = (majority_column(p, n), best_column(p, n), 1 - (1 - p) ** n)
    assert columns == pytest.approx(FIGURES[p, n], abs=0.02)


def test_the_divergence_of_best_of_n() -> None:
    """KL(best-of-N || policy) <= log N - (N - 1) / N: reached with distinct scores. The divergence
    of the distribution of the best of N over many equally likely outcomes comes up to it.
    """
    figures = {2: 0.193, 4: 0.636, 16: 1.835, 64: 3.175}
    outcomes = 20_000
    edges = np.arange(outcomes + 1) / outcomes
    for n, figure in figures.items():
        bound = math.log(n) - (n - 1) / n
        assert bound == pytest.approx(figure, abs=5e-4)
        best = np.diff(edges**n)  # of the outcomes sorted by score
        positive = best[best > 0]
        divergence = float((positive * np.log(positive * outcomes)).sum())
        assert divergence <= bound and divergence == pytest.approx(bound, abs=2e-3)
        few = np.diff((np.arange(5) / 4) ** n)  # with four outcomes it stays below
        assert float((few * np.log(few * 4)).sum()) < bound
