"""Paths of steps, and what holds for every search that grows them."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
from step_trees import BREAK, END, PROMPT, TreeAsk, decode, digits, run, scores, steps_of

from posttrain import registry
from posttrain.errors import ConfigError
from posttrain.search.base import Candidate, Selection, Step
from posttrain.search.scores import best_place
from posttrain.search.steps import (
    Steps,
    distinct_texts,
    is_done,
    is_ended,
    last_state,
    shares,
)

TREE = digits({1: 0.7, 2: 0.3}, {1: 0.5, 2: 0.2, 3: 0.3})

ONE: dict[str, dict[str, Any]] = {
    "step_beam": {"num_beams": 1},
    "dvts": {"num_beams": 1},
    "rebase": {"num_samples": 1},
    "particle_filter": {"num_particles": 1},
    "best_of_actions": {"num_actions": 1},
    "mcts": {"num_simulations": 1, "num_children": 1},
    "scored_thoughts": {"num_thoughts": 1, "num_beams": 1},
}
"""Settings with which a search is one sample."""


def start(name: str, ask: TreeAsk, number: Any, extract: Any = str, **settings: Any) -> Selection:
    """What a search of steps chooses."""
    entry = registry.searches.entry(name)
    numbers = scores(number)
    inputs = {
        "prompt": PROMPT,
        "ask": ask,
        "extract": extract,
        "score": numbers,
        "value": scores(lambda state: number(Candidate(state[1:], decode(state[1:]), 0.0, True))),
        "decode": decode,
    }
    selection = run(registry.searches.get(name)(*(inputs[n] for n in entry.inputs), **settings))
    assert isinstance(selection, Selection)
    return selection


def nearness(candidate: Candidate) -> float:
    """A score from 0 to 1 that likes high digits."""
    numbers = [int(c) for c in candidate.text if c.isdigit()]
    return sum(numbers) / (3 * len(numbers)) if numbers else 0.0


@pytest.mark.parametrize("name", ONE)
def test_one_path_is_one_sample_in_law(name: str) -> None:
    texts: Counter[str] = Counter()
    for seed in range(800):
        texts[start(name, TreeAsk(TREE, seed=seed), nearness, **ONE[name]).text] += 1
    expected = {
        f"{a}\n{b}": p * q
        for a, p in ((1, 0.7), (2, 0.3))
        for b, q in ((1, 0.5), (2, 0.2), (3, 0.3))
    }
    assert texts.keys() == expected.keys()
    distance = sum(abs(texts[t] / 800 - p) for t, p in expected.items()) / 2
    assert distance < 0.06


@pytest.mark.parametrize("name", ONE)
def test_seeds_reproduce(name: str) -> None:
    def once(seed: int) -> Any:
        ask = TreeAsk(TREE, seed=seed)
        selection = start(name, ask, nearness)
        return [c.ids for c in selection.candidates], selection.index, selection.notes, ask.calls

    assert once(1) == once(1)
    assert len({str(once(seed)) for seed in range(6)}) > 1


@pytest.mark.parametrize("name", ONE)
def test_no_budget_is_exceeded_and_every_one_has_an_answer(name: str) -> None:
    whole = TreeAsk(TREE)
    start(name, whole, nearness)
    for limit in range(1, whole.budget.num_tokens + 2):
        ask = TreeAsk(TREE, budget=limit)
        selection = start(name, ask, nearness, extract=lambda text: None)
        assert ask.budget.num_tokens <= limit and selection.answer is None
        assert 0 <= selection.index < len(selection.candidates)
    for calls in range(1, whole.budget.num_calls + 1):
        start(name, TreeAsk(TREE, max_calls=calls), nearness)
    for room in range(1, 6):
        ask = TreeAsk(TREE, max_tokens=room)
        assert all(len(c.ids) <= room for c in start(name, ask, nearness).candidates)


@pytest.mark.parametrize("name", ONE)
def test_a_scorer_without_scores_and_one_step(name: str) -> None:
    assert start(name, TreeAsk(TREE), lambda c: -math.inf).candidates
    ask = TreeAsk(TREE)
    selection = start(name, ask, nearness, max_steps=1)
    assert {stop for _, _, stop, _ in ask.calls} == {()} and len(ask.calls) == 1
    assert "\n" in selection.text  # the only step runs to the end
    ask = TreeAsk(TREE, stop=("\n",))  # lines are whole completions
    assert start(name, ask, nearness).text in ("1", "2") and len(ask.calls) == 1
    for settings in ({"separator": ""}, {"max_steps": 0}):
        with pytest.raises(ConfigError, match=next(iter(settings))):
            start(name, TreeAsk(TREE), nearness, **settings)
    for key in ONE[name]:
        with pytest.raises(ConfigError, match=key):
            start(name, TreeAsk(TREE), nearness, **{key: 0})


def test_a_path_grows_and_ends() -> None:
    steps = steps_of(TreeAsk(TREE))
    root = steps.root
    assert not steps.is_done(root) and not is_ended(root, "\n")
    (one,) = run(steps.continued(root))
    assert one.steps == (Step(2),) and not steps.is_done(one) and not steps.is_ended(one)
    (two,) = run(steps.continued(one))
    assert steps.is_done(two) and steps.is_ended(two) and two.steps == (Step(2), Step(4))
    assert steps.state(two) == (*PROMPT, *two.ids[:-1]) and steps.state(one) == (5, *one.ids)
    (whole,) = run(steps.continued(root, whole=True))
    assert whole.steps == (Step(4),) and steps.is_ended(whole)


def test_what_a_path_without_room_or_budget_is() -> None:
    tight = steps_of(TreeAsk(TREE, max_tokens=2))
    (path,) = run(tight.continued(tight.root))
    assert tight.is_done(path) and not tight.is_ended(path)
    spent = steps_of(TreeAsk(TREE, budget=2))
    (path,) = run(spent.continued(spent.root))
    (cut,) = run(spent.continued(path))
    assert spent.is_done(cut) and not spent.is_ended(cut) and cut.ids == path.ids
    assert not is_done(Candidate((), "", 0.0, False), spent.ask, "\n")
    line = Candidate((1, BREAK), "1", 0.0, True, "\n", steps=(Step(2),))
    assert is_ended(line, None) and last_state((5,), line, "\n") == (5, 1, BREAK)


def test_lookahead_is_greedy_and_bounded() -> None:
    ask = TreeAsk(TREE)
    steps = steps_of(ask)
    (far,) = run(steps.ahead([steps.root], 5))
    assert far.text == "1\n1" and steps.is_ended(far)
    assert [temperature for *_, temperature in ask.calls] == [0.0, 0.0]


def test_whole_paths_are_chosen_first_and_vote() -> None:
    steps = steps_of(TreeAsk(TREE))
    cut = Candidate((3,), "3", -0.1, False, score=0.9, steps=(Step(1),))
    low = Candidate((1, END), "1", -1.0, True, score=0.3, steps=(Step(2),))
    high = Candidate((2, END), "2", -1.0, True, score=0.5, steps=(Step(2),))
    paths = [cut, low, high, low]
    assert steps.chosen(paths, str, "best").index == 2
    assert steps.chosen([cut], str, "best").index == 0
    counted = steps.chosen(paths, str, "vote", extra=1.0)
    assert counted.votes == {"1": 2.0, "2": 1.0} and counted.notes == {"num_whole": 3, "extra": 1}
    assert steps.chosen(paths, str, "weighted_vote").votes == {"1": 0.6, "2": 0.5}
    assert steps.chosen([cut], str, "vote").votes == {"3": 1.0}
    part = Candidate((1, BREAK), "1", -1.0, True, "\n", steps=(Step(2),))  # ends at the separator
    assert [c.ended for c in steps.chosen([part, low], str, "best").candidates] == [False, True]


def test_small_parts() -> None:
    assert shares(7, 3) == [3, 2, 2] and shares(2, 3) == [1, 1, 0]
    a = Candidate((1, END), "1", -4.0, True, score=1.0)
    b = Candidate((1,), "1", -1.0, True, score=1.0)
    line = Candidate((1, BREAK), "1", -1.0, True, "\n")
    assert distinct_texts([a, b, line]) == [a, line] and best_place([line, a, b]) == 2
    with pytest.raises(ConfigError, match="separator"):
        Steps("x", PROMPT, TreeAsk(TREE), decode, "", 3)
