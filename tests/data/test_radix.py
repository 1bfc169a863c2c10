"""The radix tree of token lists, by hand and against all prefixes."""

from __future__ import annotations

import numpy as np
import pytest

from posttrain.data.radix import Nodes, radix_tree


def arrays(*lists: list[int]) -> list[np.ndarray]:
    return [np.array(ids, dtype=np.int64) for ids in lists]


def read(nodes: Nodes, ids: list[np.ndarray], node: int) -> list[int]:
    """The tokens from the root down to the end of a node."""
    path = nodes.ancestry(node)
    return [int(t) for n in path for t in ids[nodes.owner[n]][nodes.low[n] : nodes.high[n]]]


def test_a_fork_and_a_prefix_by_hand() -> None:
    """[1 2 3], [1 2 4 5], [1 2]: one trunk of two tokens, two leaves, one sequence ends on it."""
    ids = arrays([1, 2, 3], [1, 2, 4, 5], [1, 2])
    nodes = radix_tree(ids, 1)
    assert nodes.parent.tolist() == [-1, 0, 0]
    assert (nodes.low.tolist(), nodes.high.tolist()) == ([0, 2, 2], [2, 3, 4])
    assert nodes.of_sequence.tolist() == [1, 2, 0]
    assert nodes.ancestry(2) == [0, 2]
    starts = np.array([0, 2, 3])
    assert nodes.flat_indices(starts, 1).tolist() == [0, 1, 2]
    assert nodes.flat_indices(starts, 2).tolist() == [0, 1, 3, 4]


def test_equal_sequences_are_one_node() -> None:
    nodes = radix_tree(arrays([4, 4], [4, 4]), 1)
    assert nodes.of_sequence.tolist() == [0, 0] and len(nodes.parent) == 1


def test_short_prefixes_below_the_first_are_not_shared() -> None:
    """All begin with 1; 2 3 is common to two of them, and shared only if two tokens are enough."""
    ids = arrays([1, 2, 3, 4], [1, 2, 3, 5], [1, 6])
    assert len(radix_tree(ids, 2).parent) == 5
    few = radix_tree(ids, 3)
    assert len(few.parent) == 4 and few.parent.tolist() == [-1, 0, 0, 0]


def test_sequences_without_a_common_beginning_have_their_own_roots() -> None:
    nodes = radix_tree(arrays([1, 2], [3]), 1)
    assert nodes.parent.tolist() == [-1, -1] and nodes.of_sequence.tolist() == [0, 1]


@pytest.mark.parametrize("min_shared", [1, 2, 5])
def test_every_sequence_is_read_back(min_shared: int) -> None:
    draw = np.random.default_rng(min_shared)
    for _ in range(50):
        count = draw.integers(1, 9)
        ids = [draw.integers(0, 3, draw.integers(1, 7)) for _ in range(count)]
        nodes = radix_tree(ids, min_shared)
        for sequence, node in zip(ids, nodes.of_sequence, strict=True):
            assert read(nodes, ids, int(node)) == sequence.tolist()
        parents = nodes.parent
        assert all(parent < node for node, parent in enumerate(parents))  # depth first
        if min_shared == 1:  # each distinct prefix is stored once
            prefixes = {tuple(s[: i + 1].tolist()) for s in ids for i in range(len(s))}
            assert int((nodes.high - nodes.low).sum()) == len(prefixes)


def test_the_order_is_that_of_first_appearance() -> None:
    nodes = radix_tree(arrays([1, 9], [1, 3], [1, 5]), 1)
    assert nodes.owner.tolist()[1:] == [0, 1, 2]
