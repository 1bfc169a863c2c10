"""Trees of token sequences: shared prefixes, targets, streams."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from posttrain.data.forest import Forest, TokenSequence, Tree
from posttrain.errors import DataError


def sequence(ids: list[int], prompt: int = 1, row: str = "", **values: float) -> TokenSequence:
    mask = np.arange(len(ids)) >= prompt
    return TokenSequence(
        np.array(ids), mask, {"advantages": np.arange(len(ids)) + 0.5}, values, row
    )


def read_back(forest: Forest, index: int) -> list[int]:
    """A sequence's ids by the rule of visibility alone."""
    last = forest.last[index]
    k = torch.arange(forest.num_tokens)
    path = (k <= last) & (last < forest.ends)
    assert forest.positions[path].tolist() == list(range(int(path.sum())))
    return forest.tokens[path].tolist()


def random_group(draw: np.random.Generator, count: int = 7) -> list[TokenSequence]:
    """Sequences that fork at several depths, some equal, some prefixes of others."""
    lists = [draw.integers(0, 9, draw.integers(2, 6)).tolist()]
    for _ in range(count - 1):
        old = lists[draw.integers(0, len(lists))]
        cut = int(draw.integers(1, len(old) + 1))
        lists.append(
            old[:cut] + draw.integers(0, 9, draw.integers(0 if cut > 1 else 1, 5)).tolist()
        )
    return [sequence(ids, row=str(i), reward=i) for i, ids in enumerate(lists)]


def test_a_preference_pair_by_hand() -> None:
    tree = Tree.build([sequence([1, 2, 3, 4], 2), sequence([1, 2, 5], 2)])
    assert tree.tokens.tolist() == [1, 2, 3, 4, 5]
    assert tree.positions.tolist() == [0, 1, 2, 3, 2]
    assert tree.ends.tolist() == [5, 5, 4, 4, 5]
    assert tree.source.tolist() == [1, 2, 1]
    assert tree.target.tolist() == [3, 4, 5]
    assert tree.sequence.tolist() == [0, 0, 1]
    assert tree.last.tolist() == [3, 4]
    assert tree.streams["advantages"].tolist() == [2.5, 3.5, 2.5]


def test_deeper_prefixes_are_shared_only_when_long_enough() -> None:
    trunk, branch = [1, 2], list(range(10, 30))
    group = [sequence(trunk + tail) for tail in ([*branch, 3], [*branch, 4], [5, 6, 7], [5, 6, 8])]
    assert Tree.build(group, min_shared=16).num_tokens == 2 + 20 + 2 + 6
    assert Tree.build(group, min_shared=1).num_tokens == 2 + 20 + 2 + 4
    assert Tree.build(group, min_shared=100).num_tokens == 2 + 42 + 6


@pytest.mark.parametrize("min_shared", [1, 3, 16])
@pytest.mark.parametrize("seed", range(8))
def test_every_sequence_can_be_read_back(seed: int, min_shared: int) -> None:
    draw = np.random.default_rng(seed)
    groups = [random_group(draw) for _ in range(4)]
    forest = Forest.pack([Tree.build(group, min_shared=min_shared) for group in groups])
    members = [s for group in groups for s in group]
    assert forest.rows == [s.row for s in members]
    for index, member in enumerate(members):
        ids = member.ids.tolist()
        assert read_back(forest, index) == ids
        own = forest.sequence == index
        assert forest.target[own].tolist() == ids[1:]
        assert forest.tokens[forest.source[own]].tolist() == ids[:-1]
        assert forest.positions[forest.source[own]].tolist() == list(range(len(ids) - 1))
        assert forest.streams["advantages"][own].tolist() == [i + 0.5 for i in range(1, len(ids))]
    assert forest.values["reward"].tolist() == [s.values["reward"] for s in members]


def test_equal_sequences_and_prefixes_cost_nothing() -> None:
    ids = list(range(5))
    tree = Tree.build([sequence(ids), sequence(ids), sequence(ids[:3])])
    assert tree.num_tokens == 5
    assert tree.num_targets == 4 + 4 + 2
    assert (tree.ends == 5).all()


def test_nothing_in_common() -> None:
    tree = Tree.build([sequence([1, 2]), sequence([3, 4])])
    assert tree.ends.tolist() == [2, 2, 4, 4]
    assert tree.positions.tolist() == [0, 1, 0, 1]


def test_another_context_keeps_the_targets() -> None:
    row = TokenSequence([1, 2, 3, 4, 5], [False, False, True, False, True], context=[9, 8, 7])
    other = row.in_context()
    assert other.ids.tolist() == [9, 8, 7, 3, 4, 5]
    assert other.ids[other.loss_mask].tolist() == row.ids[row.loss_mask].tolist() == [3, 5]
    assert other.context is None
    with pytest.raises(DataError):
        TokenSequence([1, 2], [False, True], context=[])
