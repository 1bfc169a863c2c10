"""Best-of-N with a penalty for distance from the policy."""

from __future__ import annotations

import pytest

from posttrain.errors import ConfigError
from posttrain.search.base import Candidate
from posttrain.search.regularized import regularized_best_of_n

GROUP = [("hacked", -30.0, 9.0), ("good", -4.0, 5.0), ("plain", -1.0, 1.0)]


def write(context, n):
    return [Candidate((1,) * len(text), text, lp, True) for text, lp, _ in GROUP[:n]]


@pytest.mark.parametrize(
    ("weight", "text"),
    # worth: 9 - 30 w, 5 - 4 w, 1 - w: they meet at w = 2/13 and 4/3
    [(0.0, "hacked"), (0.15, "hacked"), (0.16, "good"), (1.3, "good"), (1.4, "plain")],
)
def test_the_weight_moves_the_choice(scripted, scores, search, weight: float, text: str) -> None:
    score = scores(lambda c: {t: s for t, _, s in GROUP}[c.text])
    s = search(
        regularized_best_of_n(
            (1,), scripted(write), str, score, num_samples=3, penalty_weight=weight
        )
    )
    assert s.text == text and [c.score for c in s.candidates] == [9.0, 5.0, 1.0]


def test_length(scripted, scores, search) -> None:
    score = scores(lambda c: float(len(c.text)))
    settings = {"num_samples": 3, "penalty": "length"}
    for weight, text in ((0.5, "hacked"), (2.0, "good")):
        chosen = regularized_best_of_n(
            (1,), scripted(write), str, score, penalty_weight=weight, **settings
        )
        assert search(chosen).text == text
    with pytest.raises(ConfigError, match="penalty_weight"):
        search(regularized_best_of_n((1,), scripted(write), str, score, penalty_weight=-1.0))


def test_a_proxy_that_is_hacked(scripted, scores, search) -> None:
    """The proxy is right about likely samples and overrates unlikely ones: with N the gold of
    best-of-N falls, and that of the regularised choice does not.
    """
    import random

    draw = random.Random(0)
    gold = {}
    for weight in (0.0, 1.0):
        for n in (4, 64):
            total = 0.0
            for _ in range(200):
                # gold z ~ N(0, 1); one sample in ten is far off: proxy + 6, gold - 2, unlikely
                items = []
                for _ in range(n):
                    z, odd = draw.gauss(0, 1), draw.random() < 0.03
                    items.append((z - 2 * odd, z + 6 * odd, -1.0 - 9.0 * odd))
                ask = scripted(
                    lambda c, k, rows=items: [
                        Candidate((1,), str(i), rows[i][2], True) for i in range(k)
                    ]
                )
                score = scores(lambda c, rows=items: rows[int(c.text)][1])
                s = search(
                    regularized_best_of_n(
                        (1,), ask, str, score, num_samples=n, penalty_weight=weight
                    )
                )
                total += items[int(s.text)][0]
            gold[weight, n] = total / 200
    assert gold[0.0, 64] < gold[0.0, 4] and gold[1.0, 64] > gold[1.0, 4]


@pytest.mark.parametrize("penalty", ["kl", "length"])
def test_what_the_budget_left_empty_is_not_chosen(scripted, scores, search, penalty) -> None:
    def cut(context, n):
        return [Candidate((), "", 0.0, False), Candidate((1, 2), "ab", -9.0, True)][:n]

    settings = {"num_samples": 2, "penalty": penalty, "penalty_weight": 5.0}
    s = search(regularized_best_of_n((1,), scripted(cut), str, scores(lambda c: 0.0), **settings))
    assert s.text == "ab"
