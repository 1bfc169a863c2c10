"""Grades of answers and abstentions by hand."""

from __future__ import annotations

import pytest

from posttrain.incontext.answers import answerability, best_f1, exact_match, f1, normalized_answer


def test_answers_are_compared_as_squad_does() -> None:
    assert normalized_answer("The  Cat, a dog!") == "cat dog"
    assert exact_match("the cat.", "Cat") and not exact_match("cats", "cat")
    assert f1("red cat", "red dog") == pytest.approx(0.5)
    assert f1("", "") == 1.0 and f1("x", "") == 0.0
    assert best_f1("red cat", ["dog", "red cat"]) == 1.0


def test_answerability_by_hand() -> None:
    answers = ["Bern", "unanswerable", "Rome", None, "Oslo city"]
    golds = [["Bern"], [], [], ["Lima"], ["Oslo"]]
    found = answerability(answers, golds)
    # Right: Bern, and leaving the second. Rome has no answer, Lima was left, Oslo city is not Oslo.
    assert found.exact.estimate == pytest.approx(0.4)
    assert found.f1.estimate == pytest.approx((1 + 1 + 0 + 0 + 2 / 3) / 5)
    assert found.has_answer.estimate == pytest.approx(1 / 3) and found.has_answer.n == 3
    assert found.no_answer.estimate == 0.5
    assert found.abstained == 0.4 and found.precision == 0.5 and found.risk == pytest.approx(2 / 3)


def test_nothing_left_and_nothing_answered() -> None:
    assert answerability(["a"], [["a"]]).precision == 1.0
    assert answerability([None], [[]]).risk == 0.0
