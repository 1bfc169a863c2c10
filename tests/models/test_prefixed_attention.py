"""A forest below keys and values that were computed before, against the whole text at once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from posttrain.data.forest import Forest, TokenSequence, Tree
from posttrain.models.masked_attention import eager_attention
from posttrain.models.prefixed_attention import Block, PrefixedPlan

HEADS, KV_HEADS, DEPTH = 4, 2, 8
MODULE: Any = SimpleNamespace(layer_idx=0)


class Text:
    """Two trees, each below three shared tokens and two of its own; by position:

    0 1 2 shared | 3 4 first  | 5 6, then leaves 7 8 and 7
    0 1 2 shared | 3 4 second | 5 6
    """

    def __init__(self) -> None:
        group = [np.array([5, 6, 7, 8]), np.array([5, 6, 9])]
        rows = [TokenSequence(ids, np.arange(len(ids)) > 0) for ids in group]
        chain = TokenSequence(np.array([10, 11]), np.array([False, True]))
        self.forest = Forest.pack([Tree.build(rows, min_shared=1), Tree.build([chain])])
        self.forest.positions = self.forest.positions + 5
        assert self.forest.num_tokens == 7
        self.place = {"shared": (0, 3, 0, 7), "first": (3, 2, 0, 5), "second": (3, 2, 5, 7)}
        generator = torch.Generator().manual_seed(0)

        def drawn(heads: int, size: int) -> Tensor:
            return torch.randn(heads, size, DEPTH, generator=generator, dtype=torch.float64)

        self.sinks = drawn(HEADS, 1)[:, 0, 0]
        self.query = drawn(HEADS, 7)
        self.kv = {name: (drawn(2, n), drawn(2, n)) for name, (_, n, _, _) in self.place.items()}
        self.own = drawn(KV_HEADS, 7), drawn(KV_HEADS, 7)

    def blocks(self, order: tuple[str, ...]) -> list[Block]:
        return [
            Block([self.kv[name]], start, stop, position)
            for name in order
            for position, _, start, stop in [self.place[name]]
        ]

    def expected(
        self, scale: float, window: int | None, softcap: float | None, sinks: Tensor | None
    ) -> Tensor:
        """Each key with its position and the forest's tokens that may see it; all in one mask."""
        positions, visible = [], []
        for position, size, start, stop in self.place.values():
            for offset in range(size):
                positions.append(position + offset)
                visible.append([start <= q < stop for q in range(7)])
        for k in range(7):
            positions.append(int(self.forest.positions[k]))
            visible.append([k <= q < int(self.forest.ends[k]) for q in range(7)])
        mask = torch.tensor(visible).T
        if window is not None:
            mask &= self.forest.positions[:, None] - torch.tensor(positions)[None] < window
        parts = [*self.kv.values(), self.own]
        keys = torch.cat([part[0] for part in parts], 1)
        values = torch.cat([part[1] for part in parts], 1)
        out = eager_attention(
            self.query[None], keys[None], values[None], mask, scale, softcap, sinks
        )
        return out.transpose(1, 2)

    def attend(self, plan: PrefixedPlan, **options: Any) -> Tensor:
        key, value = self.own
        return plan.attend(MODULE, self.query[None], key[None], value[None], **options)


ORDERS = [("shared", "first", "second"), ("second", "first", "shared")]


@pytest.mark.parametrize("order", ORDERS, ids=["from the root", "towards the root"])
@pytest.mark.parametrize("window", [None, 2, 6, 100])
@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("has_sinks", [False, True])
def test_it_is_the_attention_of_the_whole_text(
    order: tuple[str, ...], window: int | None, softcap: float | None, has_sinks: bool
) -> None:
    text = Text()
    plan = PrefixedPlan(text.forest, text.blocks(order))
    sinks = text.sinks if has_sinks else None
    out = text.attend(plan, scaling=0.4, sliding_window=window, softcap=softcap, s_aux=sinks)
    expected = text.expected(0.4, window, softcap, sinks)
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-6)


def test_the_scale_follows_from_the_depth_where_none_is_given() -> None:
    text = Text()
    plan = PrefixedPlan(text.forest, text.blocks(ORDERS[0]))
    torch.testing.assert_close(
        text.attend(plan, scaling=None), text.expected(DEPTH**-0.5, None, None, None)
    )


def test_it_keeps_the_keys_and_values_of_its_own_tokens() -> None:
    text = Text()
    plan = PrefixedPlan(text.forest, text.blocks(ORDERS[0]))
    text.attend(plan, scaling=None)
    keys, values = plan.kv[0]
    assert torch.equal(keys[0], text.own[0]) and torch.equal(values[0], text.own[1])


def test_without_blocks_it_is_a_forest() -> None:
    text = Text()
    plan = PrefixedPlan(text.forest, [])
    text.place = {}
    text.kv = {}
    torch.testing.assert_close(text.attend(plan, scaling=0.4), text.expected(0.4, None, None, None))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_answer_has_the_type_of_the_query(dtype: torch.dtype) -> None:
    text = Text()
    expected = text.expected(0.4, None, None, None)
    plan = PrefixedPlan(text.forest, text.blocks(ORDERS[0]))
    text.query = text.query.to(dtype)
    text.own = text.own[0].to(dtype), text.own[1].to(dtype)
    out = text.attend(plan, scaling=0.4)
    assert out.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 3e-2
    torch.testing.assert_close(out.double(), expected, rtol=tolerance, atol=tolerance)
