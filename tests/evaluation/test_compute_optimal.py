"""Policies are chosen by validation accuracy and judged on problems that did not choose them."""

from __future__ import annotations

import numpy as np
import pytest

from posttrain.errors import ConfigError
from posttrain.evaluation.compute_optimal import Trials, best_of, cross_fit, fit_rule, record_of
from posttrain.search.policy import Choice

CHEAP, DEAR = Choice("sample"), Choice("majority_vote", {"num_samples": 4})


def trials(correct: list[list[float]], difficulty: list[float]) -> Trials:
    tokens = np.array([[1.0] * len(difficulty), [4.0] * len(difficulty)])
    return Trials([CHEAP, DEAR], np.array(correct), tokens, np.array(difficulty))


def test_each_bin_gets_what_is_best_there_and_ties_go_to_fewer_tokens() -> None:
    hard = [0.9, 0.8, 0.7]
    given = trials([[1, 1, 1, 0, 0, 0], [1, 1, 0, 1, 1, 1]], [0.0, 0.1, 0.2, *hard])
    rule = fit_rule(given, 2)
    assert rule.choices == (CHEAP, DEAR) and 0.2 < rule.edges[0] <= 0.7
    assert rule.choice(0.1)[1] == CHEAP and rule.choice(0.95) == (1, DEAR)
    same = trials([[1, 0], [1, 0]], [0.0, 1.0])
    assert fit_rule(same, 1).choices == (CHEAP,) and best_of(same, np.array([], int)) == 0


def test_equal_difficulties_are_one_bin() -> None:
    rule = fit_rule(trials([[1, 1, 0, 0], [0, 0, 1, 0]], [0.5] * 4), 3)
    assert rule.edges == () and rule.choices == (CHEAP,)
    with pytest.raises(ConfigError):
        fit_rule(trials([[1], [0]], [0.5]), 0)


def test_the_estimate_is_of_problems_that_did_not_choose() -> None:
    """Strategies of pure noise: chosen on all problems the best seems to gain, cross-fitted not."""
    draw = np.random.default_rng(0)
    gains, fitted = [], []
    for _ in range(60):
        correct = (draw.random((8, 40)) < 0.5).astype(float)
        difficulty = draw.random(40)
        many = Trials(
            [Choice("majority_vote", {"num_samples": n}) for n in range(1, 9)],
            correct,
            np.ones_like(correct),
            difficulty,
        )
        fit = cross_fit(many, [str(i) for i in range(40)], 3)
        gains.append(fit.policy.estimate)
        rule = fit_rule(many, 3)
        chosen = [list(many.choices).index(rule.choice(float(d))[1]) for d in difficulty]
        fitted.append(correct[chosen, np.arange(40)].mean())
    assert np.mean(fitted) > 0.6 and abs(np.mean(gains) - 0.5) < 0.03


def test_a_real_difference_is_seen() -> None:
    easy = np.arange(40) < 20
    correct = np.array([easy, ~easy], dtype=float)
    given = Trials([CHEAP, DEAR], correct, np.ones((2, 40)), np.where(easy, 0.0, 1.0))
    fit = cross_fit(given, [str(i) for i in range(40)], 2)
    assert fit.policy.estimate == 1.0 and fit.gain.low > 0.2 and fit.tokens == 1.0
    assert record_of({7: fit})["7"]["problems"] == 40
    with pytest.raises(ConfigError):
        cross_fit(given.of(np.arange(3)), ["a", "b", "c"], 2)
