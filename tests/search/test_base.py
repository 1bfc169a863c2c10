"""Candidates that grow, and selections."""

from __future__ import annotations

import math

from posttrain.search.base import Candidate, Step, distinct, select


def test_a_candidate_grows_by_steps() -> None:
    start = Candidate((), "", 0.0, False, context_ids=(7,))
    first = start.grown(Candidate((1, 9), "a", -1.0, True, "|", (-0.5, -0.5)), repr).scored(0.25)
    assert first.text == "(1, 9)"
    cut = start.grown(Candidate((1, 9), "", -1.0, True, "9"), repr)
    assert cut.text == "(1, "
    both = first.grown(Candidate((2,), "b", -2.0, True, None, (-2.0,)), repr)
    assert both.ids == (1, 9, 2) and both.text == "(1, 9, 2)" and both.context_ids == (7,)
    assert both.logprob == -3.0 and both.logprobs == (-0.5, -0.5, -2.0) and both.mean_logprob == -1
    assert both.steps == (Step(2, 0.25), Step(3)) and both.score is None
    assert (both.ended, both.stop_string, first.stop_string) == (True, None, "|")
    assert both.scored(0.5).steps == (Step(2, 0.25), Step(3, 0.5))


def test_a_selection_counts_all_candidates() -> None:
    group = [Candidate((1, 2), "x", -1.0, True), Candidate((3,), "y", -1.0, True)]
    s = select(group, 1, str.upper, {"Y": 1.0}, num_stopped=2.0)
    assert (s.text, s.answer, s.num_tokens, s.notes) == ("y", "Y", 3, {"num_stopped": 2.0})


def test_distinct_keeps_the_first_of_equals() -> None:
    a, b = Candidate((1,), "a", -1.0, True), Candidate((2,), "b", -1.0, True)
    other = Candidate((1,), "a", -1.0, True, context_ids=(5,))
    assert distinct([a, b, Candidate((1,), "late", 0.0, True), other]) == [a, b, other]


def test_a_candidate_without_tokens_is_never_the_likeliest() -> None:
    assert Candidate((), "", 0.0, False).mean_logprob == -math.inf
