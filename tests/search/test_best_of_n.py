"""Best-of-N."""

from __future__ import annotations

from posttrain.search.base import Candidate
from posttrain.search.best_of_n import best_of_n, most_likely

GROUP = [("a", -4.0), ("bb", -2.0), ("cc", -1.0), ("d", -9.0)]


def write(context, n):
    return [Candidate((1, 2), text, logprob, True) for text, logprob in GROUP[:n]]


def test_the_highest_score_and_its_ties(scripted, scores, search) -> None:
    s = search(best_of_n((1,), scripted(write), str, scores(lambda c: len(c.text)), num_samples=4))
    assert s.text == "cc" and [c.score for c in s.candidates] == [1, 2, 2, 1]
    s = search(best_of_n((1,), scripted(write), str, scores(lambda c: len(c.text)), num_samples=1))
    assert s.text == "a" and s.num_tokens == 2


def test_what_the_budget_left_empty_is_not_the_likeliest(scripted, search) -> None:
    def cut(context, n):
        return [Candidate((), "", 0.0, False), Candidate((1,), "a", -2.0, True)][:n]

    assert search(most_likely((1,), scripted(cut), str, num_samples=2)).text == "a"


def test_the_likeliest(scripted, search) -> None:
    assert search(most_likely((1,), scripted(write), str, num_samples=4)).text == "cc"
