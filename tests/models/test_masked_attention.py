"""Attention with masks: against loops over queries and keys in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from posttrain.data.forest import Forest, TokenSequence, Tree
from posttrain.kernels.forest_cpu import ForestShape
from posttrain.models.masked_attention import (
    Piece,
    eager_attention,
    make_pieces,
    masked_attention,
    pieces_of,
)


def reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    visible: Tensor,
    scale: float,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """query [H, T, D], key and value [Hkv, S, D], visible [T, S] -> [H, T, D], one query at a
    time: softmax by its definition.
    """
    out = torch.zeros(*query.shape[:2], value.shape[-1], dtype=torch.float64)
    group = query.shape[0] // key.shape[0]
    for head in range(query.shape[0]):
        for place in range(query.shape[1]):
            total = 0.0 if sinks is None else math.exp(float(sinks[head]))
            for other in range(key.shape[1]):
                if not visible[place, other]:
                    continue
                score = scale * float(query[head, place] @ key[head // group, other])
                if softcap is not None:
                    score = softcap * math.tanh(score / softcap)
                total += math.exp(score)
                out[head, place] += math.exp(score) * value[head // group, other]
            out[head, place] /= total
    return out


def drawn(*shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]


def test_two_keys_by_hand() -> None:
    """Scores 0 and ln 3: weights 1/4 and 3/4; a sink with score ln 4 takes half of both."""
    query, key = torch.ones(1, 1, 1, 1), torch.tensor([0.0, math.log(3)])[None, None, :, None]
    value = torch.tensor([4.0, 8.0])[None, None, :, None]
    assert eager_attention(query, key, value, None, 1.0).item() == pytest.approx(7.0)
    sinks = torch.tensor([math.log(4)])
    sunk = eager_attention(query, key, value, None, 1.0, sinks=sinks)
    assert sunk.item() == pytest.approx(3.5)


def test_a_cap_bounds_scores() -> None:
    """Scores 0 and 1000, capped at 1: weights 1 and e."""
    query, key = torch.ones(1, 1, 1, 1), torch.tensor([0.0, 1000.0])[None, None, :, None]
    value = torch.tensor([0.0, 1.0])[None, None, :, None]
    capped = eager_attention(query, key, value, None, 1.0, softcap=1.0)
    assert capped.item() == pytest.approx(math.e / (1 + math.e))


@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("has_sinks", [False, True])
@pytest.mark.parametrize("scaling", [None, 0.4])
def test_eager_attention_is_the_definition(
    softcap: float | None, has_sinks: bool, scaling: float | None
) -> None:
    query, key, value, sinks = drawn((4, 5, 8), (2, 6, 8), (2, 6, 3), (4,))
    visible = torch.rand(5, 6, generator=torch.Generator().manual_seed(1)) < 0.6
    visible[:, 0] = True
    some_sinks = sinks if has_sinks else None
    out = eager_attention(
        query[None], key[None], value[None], visible, scaling, softcap, some_sinks
    )
    scale = 8**-0.5 if scaling is None else scaling
    expected = reference(query, key, value, visible, scale, softcap, some_sinks)
    torch.testing.assert_close(out[0], expected, rtol=1e-10, atol=1e-10)


def test_an_additive_mask_does_what_a_boolean_one_does() -> None:
    query, key, value = drawn((1, 2, 3, 4), (1, 2, 3, 4), (1, 2, 3, 4))
    visible = torch.ones(3, 3, dtype=torch.bool).tril()
    additive = torch.zeros(3, 3, dtype=torch.float64).masked_fill(~visible, -torch.inf)
    by_addition = eager_attention(query, key, value, additive, None)
    assert torch.equal(by_addition, eager_attention(query, key, value, visible, None))


def test_dropout_leaves_out_whole_weights() -> None:
    torch.manual_seed(0)
    query, key, value = drawn((1, 1, 50, 4), (1, 1, 1, 4), (1, 1, 1, 4))
    out = eager_attention(query, key, value, None, None, dropout=0.5)[0, 0]
    whole = out.abs().sum(-1) > 0
    assert 0 < int(whole.sum()) < 50
    torch.testing.assert_close(out[whole], (2 * value[0, 0]).expand(int(whole.sum()), 4))


def test_a_piece_by_hand() -> None:
    """Queries 0 to 2 and 2 alone; the second stretch is padded with its last row and key."""
    positions = np.arange(3)
    stretches = [(0, 2, np.array([0, 1])), (2, 3, np.array([2]))]
    piece = Piece(stretches, positions, positions, None)
    assert piece.queries.tolist() == [0, 1, 2, 2]
    assert piece.keys.tolist() == [0, 1, 2, 2]
    assert piece.mask[:, 0].tolist() == [
        [[True, False], [True, True]],
        [[True, False], [True, False]],
    ]
    assert piece.real_rows.tolist() == [0, 1, 2]


def test_a_window_leaves_out_keys_that_no_query_of_a_stretch_sees() -> None:
    positions = np.arange(600)
    path = np.arange(600)
    pieces = make_pieces([(0, 600, path)], positions, positions, torch.device("cpu"), 10)
    rows = [piece.mask[:, 0].flatten(0, 1)[piece.real_rows] for piece in pieces]
    assert sum(int(row.sum()) for row in rows) == sum(min(i + 1, 10) for i in range(600))
    columns = max(piece.mask.shape[-1] for piece in pieces)
    assert columns < 300  # a stretch of 256 queries and nine keys before


def forest() -> Forest:
    """Two trees: a trunk of four tokens with leaves of three and two, and a chain."""
    tails = [[4, 5, 6], [7, 8]]
    group = [np.array([0, 1, 2, 3, *tail]) for tail in tails]
    rows = [TokenSequence(ids, np.arange(len(ids)) > 0) for ids in group]
    chain = TokenSequence(np.array([9, 10, 11]), np.array([False, True, True]))
    return Forest.pack([Tree.build(rows, min_shared=1), Tree.build([chain])])


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("has_sinks", [False, True])
def test_the_pieces_of_a_forest_give_what_a_dense_mask_gives(
    window: int | None, softcap: float | None, has_sinks: bool
) -> None:
    trees = forest()
    size = trees.num_tokens
    assert size == 12
    query, key, value, sinks = drawn((4, size, 8), (2, size, 8), (2, size, 8), (4,))
    index = torch.arange(size)
    visible = (index[None] <= index[:, None]) & (index[:, None] < trees.ends[None])
    if window is not None:
        visible &= trees.positions[:, None] - trees.positions[None] < window
    shape = ForestShape(trees.ends.numpy())
    pieces = pieces_of(shape, trees.positions, window)
    some_sinks: Any = sinks if has_sinks else None
    out = masked_attention(
        query[None], key[None], value[None], pieces, 0.4, softcap, some_sinks, 0.0
    )
    expected = reference(query, key, value, visible, 0.4, softcap, some_sinks)
    torch.testing.assert_close(out[0].transpose(0, 1), expected, rtol=1e-10, atol=1e-10)
