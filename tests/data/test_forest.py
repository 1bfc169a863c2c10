"""Trees, forests, splitting."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from posttrain.data.forest import Batch, Forest, TokenSequence, Tree
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


def longest_shared(paths: list[list[int]]) -> int:
    """Tokens of the longest prefix that two of the lists have in common."""
    shared = [
        next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
        for n, a in enumerate(paths)
        for b in paths[:n]
    ]
    return max(shared, default=0)


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


@pytest.mark.parametrize("max_tokens", [1, 5, 9, 16, 40, 1000])
@pytest.mark.parametrize("seed", range(4))
def test_split_keeps_every_sequence_and_the_budget(seed: int, max_tokens: int) -> None:
    draw = np.random.default_rng(seed)
    batch = Batch([Tree.build(random_group(draw), min_shared=2) for _ in range(6)])
    forests = batch.split(max_tokens)
    found = sorted(tuple(read_back(f, i)) for f in forests for i in range(f.num_sequences))
    assert found == sorted(tuple(s.ids.tolist()) for t in batch.trees for s in t.sequences)
    assert sum(f.num_targets for f in forests) == batch.num_targets
    for forest in forests:
        if forest.num_tokens > max_tokens:
            paths = [read_back(forest, i) for i in range(forest.num_sequences)]
            trunk = longest_shared(paths)
            longest = max(map(len, paths))
            assert forest.num_tokens <= max(longest, trunk + min(trunk, max_tokens))
    again = batch.split(max_tokens)
    assert [f.tokens.tolist() for f in again] == [f.tokens.tolist() for f in forests]


def test_counts() -> None:
    batch = Batch(
        [
            Tree.build([sequence([1, 2, 3], 2), sequence([1, 2, 4, 5], 2)]),
            Tree.build([sequence([7, 8])]),
        ]
    )
    assert (batch.num_tokens, batch.num_unshared_tokens) == (5 + 2, 3 + 4 + 2)
    assert (batch.num_targets, batch.num_sequences) == (1 + 2 + 1, 3)
    assert Batch([]).split(10) == []


def test_unshared_rows_predict_the_same_targets() -> None:
    draw = np.random.default_rng(3)
    groups = [random_group(draw) for _ in range(3)]
    forest = Forest.pack([Tree.build(group, min_shared=1) for group in groups])
    rows = forest.unshared()
    members = [s.ids.tolist() for group in groups for s in group]
    assert [r[m].tolist() for r, m in zip(rows.ids, rows.mask)] == members
    flat = rows.ids.flatten()
    assert torch.equal(flat[rows.source], forest.tokens[forest.source])
    assert torch.equal(flat[rows.source + 1], forest.target)


def test_errors_name_the_row_and_the_way_out() -> None:
    with pytest.raises(DataError, match="first token counts"):
        TokenSequence(np.array([1, 2]), np.array([True, True]), row="r7")
    with pytest.raises(DataError, match="'advantages' has shape"):
        TokenSequence(np.array([1, 2]), np.array([False, True]), {"advantages": np.zeros(3)})
    with pytest.raises(DataError, match="non-empty"):
        TokenSequence(np.array([]), np.array([]))
    bare = TokenSequence(np.array([1, 2]), np.array([False, True]), row="bare")
    with pytest.raises(DataError, match="max_tokens is 0"):
        Batch([Tree.build([bare])]).split(0)
    with pytest.raises(DataError, match="at least one"):
        Tree.build([])


def test_streams_and_values_may_be_absent() -> None:
    mask = np.array([False, True, True])
    streams = {"weights": [0, 2, 3], "pairs": [0, 1, 1], "old_logprobs": [0, -1, -2]}
    full = TokenSequence(
        np.array([1, 2, 3]), mask, {k: np.array(v) for k, v in streams.items()}, {"reward": 1.0}
    )
    bare = TokenSequence(np.array([1, 2, 4]), mask, row="bare")
    expected = {
        "weights": [2, 3, 1, 1],
        "pairs": [1, 1, 0, 0],
        "old_logprobs": [-1, -2, np.nan, np.nan],
    }
    one_tree = Forest.pack([Tree.build([full, bare])])
    two_trees = Forest.pack([Tree.build([full]), Tree.build([bare])])
    for forest in (one_tree, two_trees):
        assert forest.streams.keys() == expected.keys()
        for name, numbers in expected.items():
            np.testing.assert_array_equal(forest.streams[name].numpy(), np.float32(numbers))
        np.testing.assert_array_equal(forest.values["reward"].numpy(), np.float32([1, np.nan]))
    batch = Batch([Tree.build([full])], idle=[Tree.build([bare])])
    assert batch.stream_total("weights") == 2 + 3 + 1 + 1
    assert batch.stream_total("pairs") == 2
    assert batch.stream_total("advantages") is None


def long_prompt_group(trunk: int, completions: int, length: int) -> list[TokenSequence]:
    prompt = list(range(10_000, 10_000 + trunk))
    return [
        sequence(prompt + list(range(100 * i, 100 * i + length)), trunk, row=str(i))
        for i in range(completions)
    ]


def test_a_long_prompt_is_computed_once_for_many_completions() -> None:
    """400 tokens of prompt at a budget of 200, 16 completions of 10: 560 distinct tokens."""
    batch = Batch([Tree.build(long_prompt_group(400, 16, 10))])
    forests = batch.split(200)
    assert sum(f.num_tokens for f in forests) == 400 + 16 * 10
    assert len(forests) == 1
    batch = Batch([Tree.build(long_prompt_group(400, 50, 10))])  # 20 completions fit above
    assert [f.num_tokens for f in batch.split(200)] == [600, 600, 500]


def test_each_of_several_long_trunks_is_computed_once() -> None:
    """A short system prompt above two long prompts, as in a tree of dialogues."""
    first, second = long_prompt_group(300, 4, 10), long_prompt_group(300, 4, 10)
    for i, s in enumerate(second):
        ids = s.ids.copy()
        ids[20:300] += 1000
        second[i] = TokenSequence(ids, s.loss_mask, s.streams, row=f"other {i}")
    tree = Tree.build([*first, *second])
    assert tree.num_tokens == 20 + 2 * 280 + 8 * 10
    forests = Batch([tree]).split(200)
    assert [f.num_tokens for f in forests] == [340, 340]


def test_a_trunk_of_half_the_budget_or_less_keeps_the_budget() -> None:
    batch = Batch([Tree.build(long_prompt_group(100, 40, 10))])
    forests = batch.split(200)
    assert [f.num_tokens for f in forests] == [200, 200, 200, 200]


def test_room_above_a_trunk_is_bounded_by_the_budget() -> None:
    for trunk in (101, 150, 200, 201, 1000):
        batch = Batch([Tree.build(long_prompt_group(trunk, 90, 10))])
        forests = batch.split(200)
        bound = trunk + min(trunk, 200)
        assert max(f.num_tokens for f in forests) <= max(200, bound)
        in_one = min(trunk, 200) // 10  # completions of a micro-batch
        assert sum(f.num_tokens for f in forests) == 90 * 10 + trunk * math.ceil(90 / in_one)


def dyadic_trees(count: int, lengths: int = 40) -> list[Tree]:
    """Trees of a short prompt and two completions, of 10 to 10 + `lengths` tokens."""
    draw = np.random.default_rng(3)
    trees = []
    for i in range(count):
        prompt = draw.integers(0, 9, size=4).tolist()
        ends = [draw.integers(0, 9, size=int(draw.integers(3, lengths))).tolist() for _ in "ab"]
        trees.append(Tree.build([sequence(prompt + e, 4, f"{i}{n}") for n, e in enumerate(ends)]))
    return trees


@pytest.mark.parametrize("size", [2, 3, 7])
@pytest.mark.parametrize("whole", [None, "tree", "batch"])
def test_shares_hold_every_sequence_once(size: int, whole: Any) -> None:
    trees = dyadic_trees(9)
    batch = Batch(trees[:6], trees[6:], whole=whole)
    shares = [batch.share(rank, size) for rank in range(size)]
    assert all(share.whole == whole for share in shares)
    for part in ("trees", "idle"):
        rows = [row for share in shares for tree in getattr(share, part) for row in tree.rows]
        assert sorted(rows) == sorted(row for tree in getattr(batch, part) for row in tree.rows)
    assert sum(share.num_targets for share in shares) == batch.num_targets
    if whole == "tree":
        originals = {id(tree) for tree in trees}
        assert all(id(tree) in originals for share in shares for tree in share.trees)
    if whole == "batch":
        assert shares[0] is batch and not any(share.num_trees for share in shares[1:])
    else:
        loads = [share.num_tokens for share in shares]
        assert max(loads) - min(loads) <= max(tree.num_tokens for tree in trees)


def test_one_long_tree_is_shared_and_one_process_has_all() -> None:
    prompt = list(range(10))
    tree = Tree.build([sequence([*prompt, 20 + i, 40 + i], 10, str(i)) for i in range(12)])
    batch = Batch([tree])
    shares = [batch.share(rank, 3) for rank in range(3)]
    assert all(share.num_targets > 0 for share in shares)
    assert sorted(row for s in shares for t in s.trees for row in t.rows) == sorted(tree.rows)
    assert batch.share(0, 1) is batch


def test_targets_beside_are_those_of_the_forest() -> None:
    rows = [
        TokenSequence([1, 2, 3, 4], [False, False, True, True], context=[7, 7, 7]),
        TokenSequence([1, 2, 5], [False, False, True], context=[7, 7, 7]),
        TokenSequence([6, 2, 3], [False, True, True]),
    ]
    forest = Forest.pack([Tree.build(rows[:2], min_shared=1), Tree.build(rows[2:])])
    assert forest.beside is not None
    assert forest.beside.target.tolist() == forest.target.tolist()
    assert forest.beside.sequence.tolist() == forest.sequence.tolist()
    assert forest.to("cpu").beside is not None
    assert Forest.pack([Tree.build(rows[2:])]).beside is None
