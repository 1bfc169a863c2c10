"""The search that a critic guides, with samples and values that are written down."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from posttrain.errors import ConfigError
from posttrain.search.base import Candidate
from posttrain.search.value_beam import value_beam

END = 0  # ends a completion; 9 is the line break


def written(steps: dict[tuple[int, ...], list[tuple[int, ...]]]) -> Any:
    """What writes a tree: context -> the next steps, given in turn."""

    def write(context: tuple[int, ...], n: int) -> list[Candidate]:
        options = steps[context]
        chosen = [options[k % len(options)] for k in range(n)]
        return [
            Candidate(c, "", -1.0, c[-1] in (END, 9), "\n" if c[-1] == 9 else None) for c in chosen
        ]

    return write


def decode(ids: Sequence[int]) -> str:
    return "".join("\n" if i == 9 else str(i) for i in ids if i != END)


def values(table: dict[tuple[int, ...], float]) -> Any:
    async def value(states: Any) -> list[float]:
        return [table.get(tuple(s), -1.0) for s in states]

    return value


STEPS = {
    (5,): [(1, 9), (2, 9), (3, 9), (4, END)],
    (5, 1, 9): [(7, END), (8, END)],
    (5, 2, 9): [(7, END), (6, END)],
}
VALUES = {
    (5, 1, 9): 0.6,
    (5, 2, 9): 0.5,
    (5, 3, 9): 0.1,
    (5, 4): 0.2,
    (5, 1, 9, 7): 0.3,
    (5, 1, 9, 8): 0.4,
    (5, 2, 9, 6): 0.9,
}


def test_it_keeps_the_most_promising_paths(scripted, search) -> None:
    ask = scripted(written(STEPS))
    s = search(value_beam((5,), ask, lambda t: t[-1], values(VALUES), decode, num_beams=2))
    # The second best first line leads to the best end; a value of a finished path is that before
    # its end token.
    assert (s.text, s.answer, s.index) == ("2\n6", "6", 0)
    assert [c.ids for c in s.candidates] == [(2, 9, 6, END), (1, 9, 8, END)]
    assert all(c.ended for c in s.candidates)
    assert [[step.score for step in c.steps] for c in s.candidates] == [[0.5, 0.9], [0.6, 0.4]]
    assert [(n, stop, bound) for _, n, stop, bound in ask.calls] == [
        (4, ("\n",), 20),
        (2, ("\n",), 18),
        (2, ("\n",), 18),
    ]
    assert ask.budget.num_tokens == 4 * 2 + 2 * 2 * 2  # the discarded ones too


def test_equal_paths_count_once(scripted, search) -> None:
    ask = scripted(written({(6,): [(1, END)]}))
    s = search(value_beam((6,), ask, str, values({}), decode, num_beams=2))
    assert s.text == "1" and len(s.candidates) == 1 and ask.budget.num_tokens == 8


def test_one_beam_is_one_sample_a_line(scripted, search) -> None:
    ask = scripted(written(STEPS))
    s = search(value_beam((5,), ask, str, values(VALUES), decode, num_beams=1))
    assert s.text == "1\n7" and ask.budget.num_tokens == 4


def test_bounds_end_it(scripted, search) -> None:
    endless: dict[tuple[int, ...], list[tuple[int, ...]]] = {
        (5, *(1, 9) * k): [(1, 9)] for k in range(30)
    }
    ask = scripted(written(endless | {(5, 1, 9, 1, 9): [(1, 9, 1, END)]}), max_tokens=100)
    s = search(value_beam((5,), ask, str, values({}), decode, num_beams=2, max_steps=3))
    assert s.candidates[s.index].ended and s.text == "1\n1\n1\n1"
    assert [stop for _, _, stop, _ in ask.calls] == [("\n",), ("\n",), ()]
    ask = scripted(written(endless), max_tokens=4)  # the length limit of a whole completion
    s = search(value_beam((5,), ask, str, values({}), decode, num_beams=2))
    assert len(ask.calls) == 2 and s.text == "1\n1"
    ask = scripted(written(endless), max_tokens=100, budget=10)
    s = search(value_beam((5,), ask, str, values({}), decode, num_beams=2))
    assert ask.budget.num_tokens == 12 and len(ask.calls) == 2
    with pytest.raises(ConfigError, match="num_beams"):
        search(value_beam((5,), ask, str, values({}), decode, num_beams=0))


def test_a_finished_path_is_chosen_before_an_unfinished_one(scripted, search) -> None:
    steps = {(5,): [(1, 9), (4, END)], (5, 1, 9): [(1, 9)]}
    table = {(5, 1, 9): 0.9, (5, 4): 0.1, (5, 1, 9, 1, 9): 0.9}
    ask = scripted(written(steps), budget=10)
    s = search(value_beam((5,), ask, str, values(table), decode, num_beams=2))
    assert s.text == "4" and s.index == 1


def test_values_at_the_ends_of_states(tiny_folder: Path) -> None:
    """Together, sharing what they share, as each alone."""
    import torch

    from posttrain.models.load import load_score_model

    critic = load_score_model(tiny_folder, per="token")
    with torch.no_grad():
        critic.score_head.weight.normal_(generator=torch.Generator().manual_seed(0))
    states = [(3, 4, 5, 6), (3, 4, 5, 7, 8), (3, 4), (3, 4, 5, 6)]
    together = critic.at_ends(states, max_tokens=6)
    assert together == pytest.approx([critic.at_ends([s])[0] for s in states], abs=1e-5)
    assert together[0] == together[3] != together[1] and critic.at_ends([]) == []


def test_a_separator_that_ends_completions_leaves_one_step(scripted, search) -> None:
    ask = scripted(written({(5,): [(1, 9)]}), stop=("\n",))
    s = search(value_beam((5,), ask, str, values({}), decode, num_beams=1))
    assert s.text == "1" and s.candidates[0].ended and [c[2] for c in ask.calls] == [()]
