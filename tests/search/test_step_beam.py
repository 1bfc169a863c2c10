"""Beams of steps."""

from __future__ import annotations

import pytest
from step_trees import END, PROMPT, TreeAsk, decode, digits, run, scores

from posttrain.errors import ConfigError
from posttrain.search.step_beam import dvts, step_beam

WIDE = digits({1: 0.25, 2: 0.25, 3: 0.25, 4: 0.25}, {1: 0.5, 2: 0.5})


def first(candidate) -> float:
    """The first digit."""
    return int(candidate.text[0])


def test_the_best_steps_go_on_and_the_first_level_is_full() -> None:
    ask = TreeAsk(WIDE)
    s = run(step_beam(PROMPT, ask, str, scores(first), decode, num_beams=8, beam_width=4))
    # All N samples of the first step; then 2 beams, continued 4 times each.
    assert [n for _, n, _, _ in ask.calls] == [8, 4, 4]
    kept = [context[1] for context, *_ in ask.calls[1:]]
    assert kept[0] > kept[1] and s.text[0] == str(kept[0])
    assert all(c.steps[-1].score is not None for c in s.candidates)
    assert s.notes["num_duplicates"] > 0 and len(s.candidates) <= 8


def test_never_more_than_n_paths_are_completed() -> None:
    """A completed path gives its place up: what is sampled next is what is missing."""

    def policy(path):
        if len(path) % 2:
            return {END: 0.5, 9: 0.5}
        return dict.fromkeys(range(1, 9), 1 / 8)

    for seed in range(30):
        ask = TreeAsk(policy, seed=seed)
        s = run(step_beam(PROMPT, ask, str, scores(first), decode, num_beams=6, beam_width=2))
        assert len(s.candidates) <= 6
        levels: dict[int, int] = {}
        for context, n, _, _ in ask.calls:
            levels[len(context)] = levels.get(len(context), 0) + n
        assert levels[1] == 6 and list(levels.values()) == sorted(levels.values(), reverse=True)


def test_lookahead_changes_what_is_kept() -> None:
    """The step that looks best now leads to the worse end, which only the score of the path that
    goes on says. A lookahead whose steps were sampled but not scored would change nothing.
    """

    def policy(path):
        if len(path) == 0:
            return {1: 0.5, 2: 0.5}
        if len(path) % 2:
            return {END: 1.0} if len(path) == 3 else {9: 1.0}
        return {3: 1.0} if path[0] == 1 else {4: 1.0}

    table = {"1": 0.9, "2": 0.5, "1\n3": 0.1, "2\n4": 0.8}
    score = scores(lambda c: table[c.text])

    def kept(search, lookahead: int, **settings: int):
        ask = TreeAsk(policy, seed=2)
        s = run(search(PROMPT, ask, str, score, decode, lookahead=lookahead, **settings))
        return s.text, [t for *_, t in ask.calls].count(0.0)

    for search in (step_beam, dvts):
        blind, calls = kept(search, 0, num_beams=4, beam_width=4)
        assert blind == "1\n3" and calls == 0
        seen, calls = kept(search, 1, num_beams=4, beam_width=4)
        assert seen == "2\n4" and calls > 0
    ask = TreeAsk(policy, seed=2)
    s = run(step_beam(PROMPT, ask, str, score, decode, lookahead=2, num_beams=4))
    assert all(len(c.steps) == 2 for c in s.candidates)  # greedy steps are not kept


def test_trees_are_independent() -> None:
    ask = TreeAsk(WIDE)
    s = run(dvts(PROMPT, ask, str, scores(first), decode, num_beams=8, beam_width=4))
    assert s.notes["num_trees"] == 2 and len(s.candidates) == 8
    assert [n for _, n, _, _ in ask.calls] == [8, 4, 4]
    first_tree, second_tree = ({c.text[0] for c in s.candidates[i : i + 4]} for i in (0, 4))
    assert len(first_tree) == len(second_tree) == 1  # each kept its own best first step


def test_one_tree_is_one_beam() -> None:
    for seed in range(10):
        one = run(dvts(PROMPT, TreeAsk(WIDE, seed=seed), str, scores(first), decode, num_beams=4))
        beam = run(
            step_beam(PROMPT, TreeAsk(WIDE, seed=seed), str, scores(first), decode, num_beams=4)
        )
        assert one.text == beam.text


def test_settings_are_checked() -> None:
    for search in (step_beam, dvts):
        for settings in ({"num_beams": 6, "beam_width": 4}, {"lookahead": -1}, {"beam_width": 0}):
            with pytest.raises(ConfigError, match=next(iter(settings))):
                run(search(PROMPT, TreeAsk(WIDE), str, scores(first), decode, **settings))
