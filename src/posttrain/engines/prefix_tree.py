"""Keys and values of all text that an engine has computed, as a radix tree over token ids.

An edge holds a stretch of ids with their keys and values. Texts that begin alike share stretches,
token by token; where they part, the stretch is split. Above a bound of bytes the leaves that were
used longest ago go first. The trees of several models (a base and its adapters) may share one
bound. Readers hold the tensors of the nodes that they matched, so that a node may go at any time
between two calls.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from posttrain.models.prefixed_attention import KeyValues

NODE_BYTES = 2 << 10
"""What a node needs beside keys and values: objects of Python and PyTorch. 1.5 KiB were measured
(resident memory, 20 000 nodes), which is more than a few tokens of a small model need."""


class Node:
    """A stretch of a text.

    ids: its tokens. kv: their keys and values, [Hkv, len(ids), D] per layer; those of the root are
    of virtual tokens. children: by first id. used: when, by the tree's clock.
    """

    __slots__ = ("_layers", "_stacked", "children", "ids", "num_bytes", "parent", "used")

    def __init__(self, ids: tuple[int, ...], kv: KeyValues, parent: Node | None) -> None:
        self.ids, self.parent = ids, parent
        self.children: dict[int, Node] = {}
        self.used = 0
        self.kv = kv

    @property
    def kv(self) -> KeyValues:
        """Keys and values per layer, views."""
        if self._stacked is None:
            return self._layers
        tensors = self._stacked.unbind()
        return list(zip(tensors[::2], tensors[1::2], strict=True))

    @kv.setter
    def kv(self, kv: KeyValues) -> None:
        """Copies, in one tensor of all layers: one of a few tokens is smaller than its header."""
        tensors = [x for pair in kv for x in pair]
        is_even = len({(x.shape, x.dtype) for x in tensors}) == 1
        self._stacked = torch.stack(tensors) if is_even else None
        self._layers = [] if is_even else [(k.clone(), v.clone()) for k, v in kv]
        self.num_bytes = NODE_BYTES + sum(x.numel() * x.element_size() for x in tensors)


class Part(NamedTuple):
    """The first `num_tokens` tokens of a node, as part of the path of a text."""

    node: Node
    num_tokens: int

    def kv(self) -> KeyValues:
        """Keys and values of these tokens, views."""
        return part_of(self.node.kv, 0, self.num_tokens)


def part_of(kv: KeyValues, start: int, stop: int | None) -> KeyValues:
    """Those of some tokens, views."""
    return [(k[:, start:stop], v[:, start:stop]) for k, v in kv]


class PrefixMemory:
    """The bound of several trees together, and the clock by which their nodes were used.

    Args:
        max_bytes: of nodes with their keys and values; 0 keeps nothing from one `trim` to the next.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.clock = 0
        self.trees: list[PrefixTree] = []

    @property
    def num_bytes(self) -> int:
        """Held now by all trees."""
        return sum(tree.num_bytes for tree in self.trees)

    def trim(self) -> None:
        """Let leaves of all trees go, those used longest ago first, until the bound holds."""
        excess = self.num_bytes - self.max_bytes
        if excess <= 0:
            return
        leaves = [
            (node.used, id(node), node, tree)
            for tree in self.trees
            for node in tree.nodes()
            if not node.children
        ]
        heapq.heapify(leaves)
        while excess > 0 and leaves:
            _, _, node, tree = heapq.heappop(leaves)
            excess -= node.num_bytes
            parent = tree.remove(node)
            if parent is not tree.root and not parent.children:
                heapq.heappush(leaves, (parent.used, id(parent), parent, tree))


class PrefixTree:
    """A radix tree of keys and values in bounded memory.

    Args:
        memory: the bound, which other trees may share; a number of bytes is one of its own.
    Attributes:
        num_bytes: held now. num_tokens: likewise, virtual ones not counted.
    """

    def __init__(self, memory: PrefixMemory | int) -> None:
        self.memory = PrefixMemory(memory) if isinstance(memory, int) else memory
        self.memory.trees.append(self)
        self.clear()

    @property
    def max_bytes(self) -> int:
        """The bound of its memory."""
        return self.memory.max_bytes

    def clear(self) -> None:
        """Forget everything."""
        self.root = Node((), [], None)
        self.num_bytes = self.num_tokens = 0

    def match(self, ids: Sequence[int]) -> list[Part]:
        """The longest beginning of a text that is held, as a path from below the root."""
        self.memory.clock += 1
        ids = tuple(ids)
        path: list[Part] = []
        node, place = self.root, 0
        while place < len(ids) and (child := node.children.get(ids[place])) is not None:
            child.used = self.memory.clock
            count = num_equal(child.ids, ids[place : place + len(child.ids)])
            path.append(Part(child, count))
            place += count
            if count < len(child.ids):
                break
            node = child
        return path

    def insert(self, ids: Sequence[int], compute: Callable[[int], KeyValues]) -> None:
        """Hold a text.

        Args:
            compute: gives keys and values of ids[start:], for a start that is asked for if any are
            not held yet. They are copied.
        """
        ids = tuple(ids)
        path = self.match(ids)
        start = sum(part.num_tokens for part in path)
        if start == len(ids):
            return
        parent = self.root
        if path:
            last, count = path[-1]
            parent = last if count == len(last.ids) else self._split(last, count)
        node = Node(ids[start:], compute(start), parent)
        node.used = self.memory.clock
        parent.children[ids[start]] = node
        self.num_bytes += node.num_bytes
        self.num_tokens += len(node.ids)

    def trim(self) -> None:
        """Let leaves go until the bound holds, those of trees of the same memory included."""
        self.memory.trim()

    def remove(self, leaf: Node) -> Node:
        """Let a leaf go; its parent."""
        parent = leaf.parent
        assert parent is not None
        del parent.children[leaf.ids[0]]
        self.num_bytes -= leaf.num_bytes
        self.num_tokens -= len(leaf.ids)
        return parent

    def nodes(self) -> list[Node]:
        """All nodes below the root."""
        nodes = list(self.root.children.values())
        for node in nodes:  # grows as it is walked
            nodes += node.children.values()
        return nodes

    def _split(self, node: Node, count: int) -> Node:
        """Put the first tokens of a node into a node of their own, above it."""
        before, kv = node.num_bytes, node.kv
        above = Node(node.ids[:count], part_of(kv, 0, count), node.parent)
        above.used = node.used
        assert node.parent is not None
        node.parent.children[node.ids[0]] = above
        above.children[node.ids[count]] = node
        node.ids, node.kv, node.parent = node.ids[count:], part_of(kv, count, None), above
        self.num_bytes += above.num_bytes + node.num_bytes - before
        return above


def num_equal(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """How many tokens two texts have in common at the beginning."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while low < high:  # by bisection: comparing slices is fast
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a[:middle] == b[:middle] else (low, middle - 1)
    return low
