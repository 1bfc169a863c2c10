"""Confidences by hand, votes by them, and traces that stop early."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from posttrain.errors import ConfigError
from posttrain.search.base import Candidate
from posttrain.search.confidence import (
    confidence_bar,
    confidence_vote,
    deepconf,
    group_confidences,
    token_confidences,
    trace_confidence,
)

END = 0


def tops(confidence: float):
    """The two likeliest tokens in one place, whose mean negative log-prob is the confidence."""
    return ((5, -0.5 * confidence), (6, -1.5 * confidence))


def trace(text: str, confidences: Sequence[float], ended: bool = True) -> Candidate:
    ids = (7,) * len(confidences)
    marks = tuple(-c / 10 for c in confidences)
    return Candidate(ids, text, sum(marks), ended, None, marks, tuple(map(tops, confidences)))


def decode(ids: Sequence[int]) -> str:
    return "".join(str(i) for i in ids if i)


def test_confidences_by_hand() -> None:
    c = trace("a", [1.0, 2.0, 3.0, 6.0])
    assert token_confidences(c, "top").tolist() == [1, 2, 3, 6]
    assert token_confidences(c, "sampled") == pytest.approx(np.exp([-0.1, -0.2, -0.3, -0.6]))
    assert group_confidences(token_confidences(c, "top"), 2).tolist() == [1.5, 2.5, 4.5]
    assert group_confidences(token_confidences(c, "top"), 9).tolist() == [3.0]
    expected = {"mean": 3.0, "tail": 4.5, "bottom": 1.5, "min": 1.5}
    assert {m: trace_confidence(c, m, 2) for m in expected} == expected  # type: ignore[arg-type]
    long = trace("a", [float(i) for i in range(1, 21)])
    assert trace_confidence(long, "bottom", 1) == 1.5  # two of twenty groups
    assert trace_confidence(trace("", []), "min", 2) == 0.0


def test_log_probs_that_are_missing(scripted, search) -> None:
    bare = Candidate((1, 2), "a", -1.0, True, None, (-0.5, -0.5))
    with pytest.raises(ConfigError, match="sampled"):
        token_confidences(bare, "top")
    with pytest.raises(ConfigError):
        token_confidences(Candidate((1,), "a", 0.0, True), "sampled")
    ask = scripted(lambda context, n: [bare] * n)
    s = search(confidence_vote((1,), ask, str, confidence="sampled", num_samples=2))
    assert s.votes == {"a": pytest.approx(2 * math.exp(-0.5))}


GROUP = [
    trace("a", [1.0, 1.0]),
    trace("a", [1.0, 1.0]),
    trace("b", [5.0, 5.0]),
    trace("c", [4.0, 0.2]),
]


def test_confidence_outvotes_numbers(scripted, search) -> None:
    ask = scripted(lambda context, n: list(GROUP[:n]))
    s = search(confidence_vote((1,), ask, str, num_samples=4, confidence="top"))
    assert s.answer == "b" and s.votes == pytest.approx({"a": 2.0, "b": 5.0, "c": 2.1})
    assert [c.score for c in s.candidates] == pytest.approx([1, 1, 5, 2.1])
    assert s.notes == {"num_dropped": 0.0}
    ask = scripted(lambda context, n: list(GROUP[:n]))
    s = search(confidence_vote((1,), ask, str, num_samples=1, top_fraction=0.5, confidence="top"))
    assert s.answer == "a" and s.num_tokens == 2


def test_the_least_confident_are_dropped(scripted, search) -> None:
    ask = scripted(lambda context, n: list(GROUP[:n]))
    s = search(
        confidence_vote((1,), ask, str, measure="min", window=1, top_fraction=0.5, confidence="top")
    )
    # least groups 1, 1, 5, 0.2: the median is 1
    assert s.votes == {"a": 2.0, "b": 5.0} and s.notes == {"num_dropped": 1.0}
    assert confidence_bar(GROUP, [1.0, 2.0, 3.0, 4.0], 0.9) == pytest.approx(1.3)
    assert confidence_bar(GROUP, [1.0, 2.0, 3.0, 4.0], 1.0) == -math.inf
    with pytest.raises(ConfigError):
        search(confidence_vote((1,), ask, str, top_fraction=0.0))


def online(plans: list[list[float]], answers: str):
    """Warm-up traces first, then traces token by token, each of its plan; the last id ends one."""
    rows: dict[tuple[int, ...], int] = {}

    def write(context, n):
        done = len(context) - 1
        if not done:
            chosen = [len(rows) + k for k in range(n)]
        else:
            chosen = [context[1] - 10]
        written = []
        for row in chosen:
            rows[(row,)] = row
            plan = plans[row][done : done + write.size]  # type: ignore[attr-defined]
            ids = [10 + row] * len(plan)
            ended = done + len(plan) >= len(plans[row])
            c = trace(answers[row], plan, ended)
            c.ids = tuple(ids)
            written.append(c)
        return written

    return write


def run_online(scripted, search, plans, answers, **settings):
    write = online(plans, answers)
    write.size = 100  # the warm-up is whole
    ask = scripted(write, max_tokens=50)

    async def chunked(context, n=1, **more):
        write.size = more.get("max_tokens") or 100
        return await type(ask).__call__(ask, context, n, **more)

    chunked.sampling, chunked.budget, chunked.random = ask.sampling, ask.budget, ask.random
    defaults = {
        "num_samples": len(plans),
        "num_warmup": 2,
        "window": 2,
        "chunk_tokens": 3,
        "confidence": "top",
    }
    by_row = lambda ids: answers[ids[0] - 10] if ids else ""  # noqa: E731
    return search(deepconf((1,), chunked, str, by_row, **(defaults | settings))), ask


SURE, UNSURE = [4.0] * 9, [4.0, 4.0, 4.0, 4.0, 0.5, 0.5, 4.0, 4.0, 4.0]


def test_unsure_traces_stop_and_do_not_vote(scripted, search) -> None:
    s, ask = run_online(scripted, search, [SURE, SURE, UNSURE, UNSURE, SURE], "abccb")
    # Window means of the unsure ones fall to 0.5 with token 6, so that they stop after two chunks.
    assert [len(c.ids) for c in s.candidates] == [9, 9, 6, 6, 9]
    assert s.notes["num_stopped"] == 2 and s.notes["nothing_stopped"] == 0
    assert s.votes == {"a": 4.0, "b": 8.0} and s.answer == "b"
    assert ask.budget.num_tokens == 39 and s.notes["bar"] == 4.0


@pytest.mark.parametrize("chunk", [1, 2, 4, 50])
def test_what_stops_does_not_depend_on_the_chunks(scripted, search, chunk: int) -> None:
    s, _ = run_online(scripted, search, [SURE, SURE, UNSURE, SURE], "abcb", chunk_tokens=chunk)
    assert s.votes == {"a": 4.0, "b": 8.0} and s.notes["num_stopped"] == 1


def test_only_full_windows_stop_a_trace(scripted, search) -> None:
    """A window longer than every trace stops nothing, and the notes say so."""
    s, _ = run_online(scripted, search, [SURE, SURE, UNSURE], "abb", window=2048)
    assert s.notes["num_stopped"] == 0 and s.notes["nothing_stopped"] == 1
    assert s.votes["b"] == pytest.approx(4.0 + sum(UNSURE) / 9)
    s, _ = run_online(scripted, search, [SURE, UNSURE], "ab", top_fraction=0.5)
    assert s.votes == {"a": 4.0} and s.notes["nothing_stopped"] == 0  # nothing was left to stop


def test_one_trace_and_budgets(scripted, search) -> None:
    s, _ = run_online(scripted, search, [SURE], "a", num_samples=1)
    assert s.answer == "a" and s.num_tokens == 9
    with pytest.raises(ConfigError):
        run_online(scripted, search, [SURE], "a", num_warmup=0)
    ask = scripted(lambda context, n: [Candidate((), "", 0.0, False)] * n, budget=0)
    s = search(deepconf((1,), ask, lambda t: None, decode, num_samples=12))
    assert s.answer is None and len(ask.calls) == 2
