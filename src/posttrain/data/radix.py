"""The radix tree of a few token lists: what they share stands once."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np


@dataclass(slots=True, frozen=True)
class Nodes:
    """A radix tree in depth-first order: node i holds tokens [low, high) of `sequences[owner]`
    below node `parent`.
    """

    parent: np.ndarray
    low: np.ndarray
    high: np.ndarray
    owner: np.ndarray
    of_sequence: np.ndarray  # [S] deepest node of each sequence

    def ancestry(self, node: int) -> list[int]:
        """The nodes from the root down to `node`."""
        path = []
        while node >= 0:
            path.append(node)
            node = int(self.parent[node])
        return path[::-1]

    def flat_indices(self, starts: np.ndarray, node: int) -> np.ndarray:
        """Flat index of each token of the sequence that ends in `node`, where node i begins at
        starts[i].
        """
        lengths = self.high - self.low
        return np.concatenate(
            [np.arange(starts[n], starts[n] + lengths[n]) for n in self.ancestry(node)]
        )


def radix_tree(ids: list[np.ndarray], min_shared: int) -> Nodes:
    """The radix tree of token lists: the longest prefix common to all, below it those of at
    least `min_shared` tokens.
    """
    # Big-endian bytes of non-negative integers sort like the integer lists, prefixes first.
    keys = [i.astype(">i8").tobytes() for i in ids]
    first_with: dict[bytes, int] = {}
    for index, key in enumerate(keys):
        first_with.setdefault(key, index)
    order = sorted(first_with)
    owners = [first_with[key] for key in order]
    common = [_common_prefix(ids[a], ids[b]) for a, b in itertools.pairwise(owners)]
    parent: list[int] = []
    low: list[int] = []
    high: list[int] = []
    owner: list[int] = []
    node_of_owner: dict[int, int] = {}
    # Each entry: a stretch [first, stop) of the sorted sequences, the depth they share already, and
    # the node above.
    stack = [(0, len(owners), 0, -1)]
    while stack:
        first, stop, depth, above = stack.pop()
        lone = stop - first == 1
        shared = len(ids[owners[first]]) if lone else min(common[first : stop - 1])
        node = above
        if shared > depth or (lone and above < 0):
            node = len(parent)
            parent.append(above)
            low.append(depth)
            high.append(shared)
            owner.append(owners[first])
        if lone:
            node_of_owner[owners[first]] = node
            continue
        cuts = [i + 1 for i in range(first, stop - 1) if common[i] < shared + min_shared]
        children = list(zip([first, *cuts], [*cuts, stop]))
        children.sort(
            key=lambda c: -min(owners[c[0] : c[1]])
        )  # popped from the end: in order of first appearance
        stack.extend((a, b, shared, node) for a, b in children)
    of_sequence = np.array([node_of_owner[first_with[key]] for key in keys])
    return Nodes(np.array(parent), np.array(low), np.array(high), np.array(owner), of_sequence)


def _common_prefix(a: np.ndarray, b: np.ndarray) -> int:
    length = min(len(a), len(b))
    different = a[:length] != b[:length]
    return int(different.argmax()) if different.any() else length
