"""Monte Carlo tree search."""

from __future__ import annotations

import itertools
import math

import pytest
from step_trees import PROMPT, TreeAsk, decode, digits, run, scores

from posttrain.errors import ConfigError
from posttrain.search.base import Candidate
from posttrain.search.mcts import Node, descended, expanded, mcts, puct, uct

WIDE = digits({1: 0.4, 2: 0.3, 3: 0.3}, {1: 0.5, 2: 0.5}, {1: 0.6, 2: 0.4})
PATHS = ["\n".join(map(str, p)) for p in itertools.product((1, 2, 3), (1, 2), (1, 2))]


def hashed(candidate: Candidate) -> float:
    """A number from 0 to 1 that says nothing about longer texts."""
    return (sum(ord(c) * 31**i for i, c in enumerate(candidate.text)) * 7919 % 1000) / 1000


@pytest.mark.parametrize("rule", ["uct", "puct"])
@pytest.mark.parametrize("evaluation", ["score", "rollout"])
def test_enough_simulations_find_the_optimum(rule: str, evaluation: str) -> None:
    best = max(PATHS, key=lambda text: hashed(Candidate((), text, 0.0, True)))
    for seed in range(5):
        ask = TreeAsk(WIDE, seed=seed)
        s = run(
            mcts(
                PROMPT,
                ask,
                str,
                scores(hashed),
                decode,
                num_simulations=200,
                num_children=30,  # so many that every step is sampled
                rule=rule,
                evaluation=evaluation,
            )
        )
        assert s.text == best
        assert s.notes["num_simulations"] < 60  # the tree is read to its end, and no further
        assert s.notes["num_nodes"] == 1 + 3 + 6 + 12 and s.notes["depth"] == 3


def test_backed_up_values_are_counted() -> None:
    root = Node(Candidate((), "", 0.0, False))
    paths = [Candidate((i,), str(i), 0.0, True) for i in (1, 1, 2, 3)]
    one, two, _three = expanded(root, paths)
    assert [child.prior for child in root.children] == [0.5, 0.25, 0.25]
    for node, value in ((one, 0.5), (two, 1.0), (one, 0.25)):
        node.backed_up(value)
    assert (root.visits, root.total, one.visits, one.mean, two.mean) == (3, 1.75, 2, 0.375, 1)
    assert root.visits == sum(child.visits for child in root.children)
    assert len(list(root.below())) == 4
    one.is_open = two.is_open = False
    one.backed_up(0.0)
    assert root.is_open and descended(root, uct(1.0), lambda parent, child: 0.0) is _three
    _three.is_open = False
    _three.backed_up(0.0)
    assert not root.is_open


def test_rules_by_hand() -> None:
    root = Node(Candidate((), "", 0.0, False), visits=8)
    child = Node(Candidate((), "", 0.0, False), prior=0.25, parent=root, visits=2, total=1.0)
    assert uct(1.5)(root, child, 0.5) == pytest.approx(0.5 + 1.5 * math.sqrt(math.log(8) / 2))
    c = 1.25 + math.log((8 + 19653) / 19652)
    assert puct(1.25)(root, child, 0.5) == pytest.approx(0.5 + c * 0.25 * math.sqrt(8) / 3)


def test_exploration_spreads_simulations() -> None:
    def breadth(exploration: float) -> int:
        ask = TreeAsk(WIDE, seed=1)
        score = scores(lambda c: 0.6 if c.text[0] == "1" else 0.5)
        run(mcts(PROMPT, ask, str, score, decode, num_simulations=8, exploration=exploration))
        return len({context[1] for context, *_ in ask.calls[1:]})

    assert breadth(0.0) == 1 < breadth(3.0)
    with pytest.raises(ConfigError, match="exploration"):
        run(mcts(PROMPT, TreeAsk(WIDE), str, scores(hashed), decode, exploration=-1.0))
