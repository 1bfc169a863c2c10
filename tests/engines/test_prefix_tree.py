"""A radix tree of keys and values: what it finds, where it splits, and what it lets go."""

from __future__ import annotations

import random

import torch

from posttrain.engines.prefix_tree import NODE_BYTES, PrefixMemory, PrefixTree, num_equal
from posttrain.models.prefixed_attention import KeyValues

WIDTH = 2 * 2 * 3 * 4  # bytes of a token: keys and values, two heads, three numbers


def kv_of(ids: tuple[int, ...]) -> KeyValues:
    """Of one layer; each token's keys name all ids up to it."""
    sums = torch.tensor(ids).cumsum(0).float() if ids else torch.zeros(0)
    keys = sums[None, :, None].expand(2, len(ids), 3).contiguous()
    return [(keys, -keys)]


def insert(tree: PrefixTree, ids: tuple[int, ...]) -> list[int]:
    """The places from which keys and values were asked for."""
    asked: list[int] = []

    def compute(start: int) -> KeyValues:
        asked.append(start)
        return [(k[:, start:].clone(), v[:, start:].clone()) for k, v in kv_of(ids)]

    tree.insert(ids, compute)
    return asked


def matched(tree: PrefixTree, ids: tuple[int, ...]) -> int:
    """Tokens found, after a look at what is held for them."""
    path = tree.match(ids)
    count = sum(part.num_tokens for part in path)
    if path:
        keys = torch.cat([part.kv()[0][0] for part in path], 1)
        assert torch.equal(keys, kv_of(ids[:count])[0][0])
    return count


def test_texts_that_begin_alike_are_held_once() -> None:
    tree = PrefixTree(1 << 20)
    assert insert(tree, (1, 2, 3, 4, 5)) == [0]
    assert insert(tree, (1, 2, 3, 9)) == [3]  # the node splits after three tokens
    assert insert(tree, (1, 2)) == [] and insert(tree, (1, 2, 3, 4, 5, 6)) == [5]
    assert (tree.num_tokens, tree.num_bytes) == (5 + 1 + 1, 7 * WIDTH + 4 * NODE_BYTES)
    assert matched(tree, (1, 2, 3, 4, 5, 6, 7)) == 6
    assert matched(tree, (1, 2, 3, 9, 9)) == 4
    assert matched(tree, (1, 2, 8)) == 2 and matched(tree, (7,)) == matched(tree, ()) == 0
    tree.clear()
    assert matched(tree, (1, 2)) == tree.num_bytes == tree.num_tokens == 0


def test_leaves_that_were_used_longest_ago_go_first() -> None:
    tree = PrefixTree(6 * WIDTH + 4 * NODE_BYTES)
    for ids in ((1, 2, 3), (1, 2, 4), (5, 6)):
        insert(tree, ids)
    tree.trim()
    assert tree.num_tokens == 6  # 1 2 | 3 | 4 | 5 6: just within the bound
    matched(tree, (1, 2, 3))
    insert(tree, (7, 8))
    tree.trim()
    assert tree.num_bytes <= tree.max_bytes
    assert matched(tree, (1, 2, 4)) == 2 and matched(tree, (5, 6)) == 0
    assert matched(tree, (1, 2, 3)) == 3 and matched(tree, (7, 8)) == 2


def test_it_agrees_with_a_list_of_texts() -> None:
    draw = random.Random(0)
    tree, texts = PrefixTree(1 << 20), []
    for _ in range(300):
        text = tuple(draw.randrange(3) for _ in range(draw.randrange(1, 9)))
        expected = max((num_equal(text, other) for other in texts), default=0)
        assert matched(tree, text) == expected
        insert(tree, text)
        texts.append(text)
    assert tree.num_tokens == len({t[:n] for t in texts for n in range(1, len(t) + 1)})
    assert tree.num_bytes == tree.num_tokens * WIDTH + len(tree.nodes()) * NODE_BYTES
    tree.memory.max_bytes = 50 * (WIDTH + NODE_BYTES)
    tree.trim()
    assert tree.num_bytes == tree.num_tokens * WIDTH + len(tree.nodes()) * NODE_BYTES
    assert 0 < tree.num_bytes <= tree.max_bytes
    for text in texts:
        matched(tree, text)


def test_trees_share_a_bound() -> None:
    memory = PrefixMemory(4 * (WIDTH + NODE_BYTES))
    one, other = PrefixTree(memory), PrefixTree(memory)
    for number in range(3):
        insert(one, (number,))
    insert(other, (0,))
    matched(one, (0,))
    insert(other, (1,))
    other.trim()
    assert memory.num_bytes == one.num_bytes + other.num_bytes == memory.max_bytes
    assert matched(one, (0,)) == 1 and matched(one, (1,)) == 0  # the oldest of both
    assert matched(other, (0,)) == matched(other, (1,)) == 1
    other.clear()
    assert memory.num_bytes == one.num_bytes > 0


def test_layers_of_other_shapes_are_held_too() -> None:
    tree = PrefixTree(1 << 20)

    def compute(ids: tuple[int, ...], start: int) -> KeyValues:
        sums = torch.tensor(ids).cumsum(0).float()[None, start:, None]
        return [(sums.expand(heads, -1, 3), -sums.expand(heads, -1, 2)) for heads in (1, 2)]

    for ids in ((1, 2, 3), (1, 2, 5)):
        tree.insert(ids, lambda start, ids=ids: compute(ids, start))
    path = tree.match((1, 2, 5))
    joined = [torch.cat([part.kv()[1][0] for part in path], 1)]
    assert torch.equal(joined[0], compute((1, 2, 5), 0)[1][0])
    assert [x.shape for pair in path[0].kv() for x in pair] == [
        (1, 2, 3),
        (1, 2, 2),
        (2, 2, 3),
        (2, 2, 2),
    ]


def test_what_is_held_keeps_nothing_else_alive() -> None:
    tree, large = PrefixTree(1 << 20), torch.zeros(2, 1000, 3)
    tree.insert((1, 2), lambda start: [(large[:, :2], large[:, 2:4])])
    (part,) = tree.match((1, 2))
    assert all(
        x.untyped_storage().nbytes() < large.untyped_storage().nbytes() for x in part.kv()[0]
    )
