"""Votes that stop early: the rule by hand, and the error under looking again and again."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest

from posttrain.errors import ConfigError
from posttrain.search.adaptive import (
    adaptive_consistency,
    anytime_consistency,
    beta_confidence,
    log_evidence,
    log_wealth,
)
from posttrain.search.base import Candidate

ERROR = 0.05


def drawing(probabilities: dict[str, float], seed: int = 0):
    """Writes answers at random."""
    draw = random.Random(seed)

    def write(context, n):
        texts = draw.choices(list(probabilities), list(probabilities.values()), k=n)
        return [Candidate((1,), text, 0.0, True) for text in texts]

    return write


def test_the_beta_rule_by_hand() -> None:
    assert beta_confidence(4, 0) == 0.96875 and beta_confidence(3, 0) == 0.9375
    assert beta_confidence(0, 0) == beta_confidence(3, 3) == 0.5
    # I_1/2(a, b) by numbers: the integral of the beta density over 0 to 1/2
    for first, second in [(5, 2), (9, 4), (12, 11)]:
        steps = 20_000
        density = [(i / steps) ** first * (1 - i / steps) ** second for i in range(steps + 1)]
        below = sum(density[: steps // 2]) + density[steps // 2] / 2
        assert beta_confidence(first, second) == pytest.approx(1 - below / sum(density), abs=1e-5)


def test_the_wealth_by_numbers() -> None:
    for won, lost in [(0, 0), (5, 0), (3, 2), (0, 4), (9, 1)]:
        steps = 20_000
        rule = [1 / 2 + (i + 0.5) / (2 * steps) for i in range(steps)]
        uniform = sum((2 * q) ** won * (2 * (1 - q)) ** lost for q in rule) / steps
        sure = 2.0**won if not lost else 0.0
        assert math.exp(log_wealth(won, lost)) == pytest.approx((sure + uniform) / 2, rel=1e-5)
    assert math.isfinite(log_wealth(3000, 10)) and math.isfinite(log_wealth(0, 3000))


def test_unanimous_answers_stop_at_four_and_six(scripted, search) -> None:
    for strategy, number in ((adaptive_consistency, 4), (anytime_consistency, 6)):
        ask = scripted(drawing({"a": 1.0}))
        s = search(strategy((1,), ask, str, num_first=1, growth=0.0))
        assert s.answer == "a" and len(s.candidates) == number
        assert s.notes == {"num_samples": number, "is_certain": 1.0}
    ask = scripted(drawing({"a": 1.0}))
    s = search(adaptive_consistency((1,), ask, str, confidence=0.97, num_first=1, growth=0.0))
    assert len(s.candidates) == 5


def test_batches_grow_up_to_the_bound(scripted, search) -> None:
    turns = iter("ab" * 50)
    ask = scripted(lambda c, n: [Candidate((1,), next(turns), 0.0, True) for _ in range(n)])
    s = search(adaptive_consistency((1,), ask, str, num_samples=20))
    assert [n for _, n, *_ in ask.calls] == [4, 2, 3, 4, 6, 1] and len(s.candidates) == 20
    assert s.notes["is_certain"] == 0


def test_one_sample_budgets_and_no_answers(scripted, search) -> None:
    for strategy in (adaptive_consistency, anytime_consistency):
        ask = scripted(drawing({"a": 1.0}))
        assert len(search(strategy((1,), ask, str, num_samples=1)).candidates) == 1
        ask = scripted(drawing({"a": 1.0}))
        s = search(strategy((1,), ask, lambda t: None, num_samples=10))
        assert s.answer is None and len(s.candidates) == 10
        ask = scripted(drawing({"a": 0.5, "b": 0.5}), budget=6)
        assert len(search(strategy((1,), ask, str)).candidates) == 6
        with pytest.raises(ConfigError):
            search(strategy((1,), scripted(drawing({"a": 1.0})), str, growth=-1.0))
    with pytest.raises(ConfigError):
        search(anytime_consistency((1,), scripted(drawing({"a": 1.0})), str, max_error=0.0))


def stopped_answer(rule, probabilities: dict[str, float], seed: int, most: int) -> str | None:
    """The leader where the rule stops, looked at after every sample; None where it never does."""
    draw = random.Random(seed)
    answers = draw.choices(list(probabilities), list(probabilities.values()), k=most)
    for number in range(1, most + 1):
        if rule(answers[:number]):
            return Counter(answers[:number]).most_common(1)[0][0]
    return None


def beta_rule(answers: list[str]) -> bool:
    first, second = (*sorted(Counter(answers).values(), reverse=True), 0)[:2]
    return beta_confidence(first, second) >= 1 - ERROR


def anytime_rule(answers: list[str]) -> bool:
    return log_evidence(answers) >= -math.log(ERROR)


@pytest.mark.parametrize(
    ("probabilities", "beta_fails"),
    [
        ({"right": 0.51, "wrong": 0.49}, True),
        ({"right": 0.36, "wrong": 0.34, "other": 0.3}, True),
        ({"right": 0.12, **{str(i): 0.11 for i in range(8)}}, False),
    ],
)
def test_the_error_under_optional_stopping(
    probabilities: dict[str, float], beta_fails: bool
) -> None:
    """Looked at after each of 60 samples, the anytime rule stops on an answer that is not the most
    frequent one in at most 5 % of 400 runs (and three standard errors). The Beta rule exceeds that
    far where two answers are close.
    """
    runs = 400
    wrong = {"beta": 0, "anytime": 0}
    for seed in range(runs):
        for name, rule in (("beta", beta_rule), ("anytime", anytime_rule)):
            answer = stopped_answer(rule, probabilities, seed, 60)
            wrong[name] += answer not in (None, "right")
    assert wrong["anytime"] / runs <= ERROR + 3 * math.sqrt(ERROR * (1 - ERROR) / runs)
    assert (wrong["beta"] / runs > 2 * ERROR) == beta_fails


def test_clear_answers_are_found_soon() -> None:
    """With 0.8 against 0.2 the anytime rule stops within 120 samples, nearly always right."""
    found = [stopped_answer(anytime_rule, {"right": 0.8, "no": 0.2}, s, 120) for s in range(200)]
    assert found.count("right") >= 190
