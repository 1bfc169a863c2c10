"""The search that a critic guides, with samples and values that are written down."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from posttrain.errors import ConfigError
from posttrain.search.base import Candidate
from posttrain.search.value_beam import value_beam
from posttrain.types import Sampling

END = 0  # ends a completion; 9 is the line break


class Tree:
    """A `generate` over a written tree: prompt and path -> the next steps, given in turn."""

    def __init__(
        self, steps: dict[tuple[int, ...], list[tuple[int, ...]]], max_tokens: int = 20
    ) -> None:
        self.steps = steps
        self.sampling = Sampling(max_tokens=max_tokens)
        self.calls: list[tuple[list[tuple[int, ...]], int, Any]] = []

    def __call__(
        self,
        prompts: Sequence[tuple[int, ...]],
        n: int,
        *,
        stop: tuple[str, ...] = (),
        max_tokens: Any = None,
    ) -> list[list[Candidate]]:
        self.calls.append((list(prompts), n, max_tokens))
        assert stop == ("\n",)
        found = []
        for p in prompts:
            options = self.steps[tuple(p)]
            chosen = [options[k % len(options)] for k in range(n)]
            found.append(
                [
                    Candidate(c, "", -1.0, c[-1] in (END, 9), "\n" if c[-1] == 9 else None)
                    for c in chosen
                ]
            )
        return found


def decode(ids: Sequence[int]) -> str:
    return "".join("\n" if i == 9 else str(i) for i in ids if i != END)


def values(table: dict[tuple[int, ...], float]) -> Any:
    return lambda states: [table.get(tuple(s), -1.0) for s in states]


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


def test_it_keeps_the_most_promising_paths() -> None:
    tree = Tree(STEPS)
    (s,) = value_beam([(5,)], tree, lambda t: t[-1], values(VALUES), decode, num_beams=2)
    # The second best first line leads to the best end; a value of a finished path is that before
    # its end token.
    assert (s.text, s.answer, s.index) == ("2\n6", "6", 0)
    assert [c.ids for c in s.candidates] == [(2, 9, 6, END), (1, 9, 8, END)] and all(
        c.ended for c in s.candidates
    )
    assert [(n, bounds) for _, n, bounds in tree.calls] == [(4, [20]), (2, [18, 18])]
    assert s.num_tokens == 4 * 2 + 2 * 2 * 2  # every sampled token, the discarded ones too


def test_prompts_have_pools_of_their_own() -> None:
    steps = {**STEPS, (6,): [(1, END)]}
    both = value_beam([(5,), (6,)], Tree(steps), str, values(VALUES), decode, num_beams=2)
    (alone,) = value_beam([(5,)], Tree(STEPS), str, values(VALUES), decode, num_beams=2)
    assert both[0] == alone and both[1].text == "1" and both[1].num_tokens == 8
    assert len(both[1].candidates) == 1  # equal paths count once


def test_one_beam_is_one_sample_a_line() -> None:
    (s,) = value_beam([(5,)], Tree(STEPS), str, values(VALUES), decode, num_beams=1)
    assert s.text == "1\n7" and s.num_tokens == 4


def test_bounds_end_it() -> None:
    endless: dict[tuple[int, ...], list[tuple[int, ...]]] = {
        (5, *(1, 9) * k): [(1, 9)] for k in range(30)
    }
    (s,) = value_beam(
        [(5,)], Tree(endless, max_tokens=100), str, values({}), decode, num_beams=2, max_rounds=3
    )
    assert not s.candidates[s.index].ended and s.text == "1\n1\n1\n"
    tree = Tree(endless, max_tokens=4)  # the length limit of a whole completion
    (s,) = value_beam([(5,)], tree, str, values({}), decode, num_beams=2)
    assert len(tree.calls) == 2 and s.text == "1\n1\n" and not s.candidates[0].ended
    with pytest.raises(ConfigError, match="num_beams 0 and max_rounds 20 must be at least 1"):
        value_beam([(5,)], tree, str, values({}), decode, num_beams=0)


def test_a_finished_path_is_chosen_before_an_unfinished_one() -> None:
    steps = {(5,): [(1, 9), (4, END)], (5, 1, 9): [(1, 9)]}
    table = {(5, 1, 9): 0.9, (5, 4): 0.1, (5, 1, 9, 1, 9): 0.9}
    (s,) = value_beam([(5,)], Tree(steps), str, values(table), decode, num_beams=2, max_rounds=2)
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
