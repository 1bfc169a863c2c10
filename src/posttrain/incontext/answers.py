"""Grades of short answers, and of abstaining where there is no answer."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from posttrain.evaluation.statistics import Interval, mean_interval, wilson_interval

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized_answer(text: str) -> str:
    """Small letters without punctuation, articles and runs of white space (SQuAD's rule).

    >>> normalized_answer(" The  Eiffel-Tower.")
    'eiffeltower'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, gold: str) -> bool:
    """Whether two answers are equal once normalised."""
    return normalized_answer(answer) == normalized_answer(gold)


def f1(answer: str, gold: str) -> float:
    """Harmonic mean of precision and recall of words.

    >>> round(f1("the old town of Bern", "Bern"), 3)
    0.4
    """
    given, wanted = normalized_answer(answer).split(), normalized_answer(gold).split()
    common = sum((Counter(given) & Counter(wanted)).values())
    if not given or not wanted:
        return float(given == wanted)
    return 2 * common / (len(given) + len(wanted))


def best_f1(answer: str, golds: Sequence[str]) -> float:
    """The largest F1 against several gold answers."""
    return max(f1(answer, gold) for gold in golds)


@dataclass(frozen=True, slots=True)
class Answerability:
    """How answers and abstentions fared.

    Attributes:
        exact: share of all questions that are right: answered word for word, or left where there is
            no answer. f1: mean; an abstention has 1 where there is no answer, else 0.
        has_answer: share right of the questions with an answer. no_answer: share left of those
            without.
        abstained: share left of all. precision: share of what was left that has no answer (1 where
            nothing was left).
        risk: share wrong of what was answered (0 where nothing was).
    """

    exact: Interval
    f1: Interval
    has_answer: Interval
    no_answer: Interval
    abstained: float
    precision: float
    risk: float


def answerability(
    answers: Sequence[str | None], golds: Sequence[Sequence[str]], *, abstain: str = "unanswerable"
) -> Answerability:
    """Grade answers, some of which may abstain.

    Args:
        answers: None, or the text `abstain`, abstains.
        golds: the right answers of each question; none where there is no answer.
    """
    left = [a is None or exact_match(a, abstain) for a in answers]
    right, scores = [], []
    for answer, is_left, gold in zip(answers, left, golds, strict=True):
        if is_left or not gold:
            right.append(is_left and not gold)
            scores.append(float(is_left and not gold))
        else:
            right.append(any(exact_match(str(answer), g) for g in gold))
            scores.append(best_f1(str(answer), gold))
    with_gold = [r for r, gold in zip(right, golds, strict=True) if gold]
    without = [r for r, gold in zip(right, golds, strict=True) if not gold]
    of_left = [not gold for is_left, gold in zip(left, golds, strict=True) if is_left]
    of_answered = [not r for r, is_left in zip(right, left, strict=True) if not is_left]
    return Answerability(
        wilson_interval(sum(right), len(right)),
        mean_interval(scores),
        wilson_interval(sum(with_gold), len(with_gold)),
        wilson_interval(sum(without), len(without)),
        abstained=sum(left) / max(len(left), 1),
        precision=sum(of_left) / len(of_left) if of_left else 1.0,
        risk=sum(of_answered) / len(of_answered) if of_answered else 0.0,
    )
