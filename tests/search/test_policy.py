"""Compute-optimal policies: difficulty without gold, pilots that count, files that come back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from posttrain.errors import ConfigError, DataError
from posttrain.search.base import Candidate
from posttrain.search.policy import (
    Choice,
    Policy,
    Rule,
    compute_optimal,
    disagreement,
    load_policy,
    run_policy,
    scored_compute_optimal,
)

VOTES = tuple(Choice("majority_vote", {"num_samples": n}) for n in (2, 6))


def answers(*texts: str) -> Any:
    """Writes these texts one after the other, over and over; a token per character."""
    written: list[int] = []

    def write(context: Any, n: int) -> list[Candidate]:
        made = []
        for _ in range(n):
            text = texts[len(written) % len(texts)]
            written.append(1)
            made.append(Candidate(tuple(map(ord, text)), text, -1.0, True))
        return made

    return write


def inputs(extract: Any = lambda text: text) -> dict[str, Any]:
    return {
        "prompt": (1, 2),
        "extract": extract,
        "decode": lambda ids: "".join(map(chr, ids)),
        "encode": lambda text: tuple(map(ord, text)),
        "problem": "?",
        "render": lambda text: tuple(map(ord, text)),
    }


def test_difficulty_is_disagreement() -> None:
    assert disagreement(["a", "a", "a", "b"]) == 0.25
    assert disagreement([None, None]) == 1.0 and disagreement(["a", None]) == 0.5
    assert disagreement([]) == 1.0


def test_easy_problems_get_few_samples_and_the_pilots_are_used(scripted: Any, search: Any) -> None:
    policy = Policy(3, "disagreement", {0: Rule((0.3,), VOTES)})
    easy = scripted(answers("a"))
    chosen = search(run_policy(policy, easy, inputs()))
    assert [(n, context) for context, n, _, _ in easy.calls] == [(3, (1, 2))]
    assert chosen.answer == "a" and chosen.notes["bin"] == 0 and chosen.notes["pilot_tokens"] == 3
    hard = scripted(answers("a", "b", "c", "b"))
    chosen = search(run_policy(policy, hard, inputs()))
    assert [n for _, n, _, _ in hard.calls] == [3, 3]
    assert chosen.notes["bin"] == 1 and len(chosen.candidates) == 6


def test_the_rule_is_that_of_the_largest_budget_within(scripted: Any, search: Any) -> None:
    rules = {10: Rule((), VOTES[:1]), 100: Rule((), VOTES[1:])}
    policy = Policy(1, "disagreement", rules)
    for budget, number in ((5, 2), (99, 2), (100, 6), (10**9, 6)):
        ask = scripted(answers("a"), budget=budget)
        search(run_policy(policy, ask, inputs()))
        assert sum(n for _, n, _, _ in ask.calls) == number
    spent = scripted(answers("abc"), budget=3)
    chosen = search(run_policy(policy, spent, inputs()))
    assert chosen.answer == "abc" and len(spent.calls) == 1


def test_a_strategy_that_samples_otherwise_gets_its_own_samples(scripted: Any, search: Any) -> None:
    from posttrain.search.policy import PilotAsk

    ask = scripted(answers("a"))
    pilot = answers("p")((), 2)
    wrapped = PilotAsk(ask, (1, 2), pilot)
    texts = [
        [c.text for c in search(wrapped((1, 2), 1, stop=("\n",)))],
        [c.text for c in search(wrapped((1, 2, 3), 1))],
        [c.text for c in search(wrapped((1, 2), 1))],
        [c.text for c in search(wrapped((1, 2), 3))],
    ]
    assert texts == [["a"], ["a"], ["p"], ["p", "a", "a"]]
    greedy = PilotAsk(ask, (1, 2), pilot)
    texts = [
        [c.text for c in search(greedy((1, 2), 1, temperature=0.0))],
        [c.text for c in search(greedy((1, 2), 1, stop=(), num_top_logprobs=0))],
    ]
    assert texts == [["a"], ["p"]]
    assert (greedy.stop_ids, greedy.context_length) == (ask.stop_ids, ask.context_length)


def test_scores_say_how_hard_a_problem_is(scripted: Any, scores: Any, search: Any) -> None:
    best = (Choice("best_of_n", {"num_samples": 2}), Choice("best_of_n", {"num_samples": 5}))
    policy = Policy(2, "score", {0: Rule((-0.5,), best)})
    for number, calls in ((0.9, 2), (0.1, 5)):
        ask = scripted(answers("a", "bb"))
        given = {**inputs(), "score": scores(lambda c, number=number: number)}
        chosen = search(run_policy(policy, ask, given))
        assert sum(n for _, n, _, _ in ask.calls) == calls
        assert chosen.notes["difficulty"] == pytest.approx(-number)


def test_files_come_back_and_wrong_ones_are_refused(
    tmp_path: Path, scripted: Any, search: Any, scores: Any
) -> None:
    policy = Policy(2, "disagreement", {50: Rule((0.5,), VOTES)}, {"task": "t"})
    path = policy.save(tmp_path / "policy.json")
    assert load_policy(path) == policy
    ask = scripted(answers("a"))
    assert search(compute_optimal(ask=ask, path=str(path), **inputs())).answer == "a"
    (tmp_path / "broken.json").write_text("{}")
    for name in ("broken.json", "missing.json"):
        with pytest.raises(DataError):
            load_policy(tmp_path / name)
    scored = Policy(1, "score", {0: Rule((), (Choice("best_of_n"),))}).save(tmp_path / "s.json")
    with pytest.raises(ConfigError):
        search(compute_optimal(ask=ask, path=str(scored), **inputs()))
    given = {**inputs(), "score": scores(lambda c: 1.0)}
    assert search(scored_compute_optimal(ask=ask, path=str(scored), **given)).answer == "a"


@pytest.mark.parametrize(
    ("pilot", "rules"),
    [
        (0, {0: Rule((), VOTES[:1])}),
        (1, {}),
        (1, {0: Rule((), VOTES)}),
        (1, {0: Rule((0.5, 0.1), (*VOTES, VOTES[0]))}),
        (1, {0: Rule((), (Choice("best_of_n"),))}),
        (1, {0: Rule((), (Choice("value_beam"),))}),
        (1, {0: Rule((), (Choice("compute_optimal"),))}),
        (1, {0: Rule((), (Choice("majority_vote", {"num_beams": 2}),))}),
    ],
)
def test_policies_that_cannot_run_are_refused(pilot: int, rules: Any) -> None:
    with pytest.raises(ConfigError):
        Policy(pilot, "disagreement", rules)
