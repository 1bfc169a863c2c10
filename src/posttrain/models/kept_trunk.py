"""A trunk that is computed once for all the micro-batches that share it.

A micro-batch is a whole forest: a trunk of L tokens with some of its leaves. Where micro-batches
share the trunk (`data.forest.TrunkShare`), its keys and values k, v of each layer and its last
hidden states h are computed once. With l_i the loss of micro-batch i,

    d(sum_i l_i) / d theta  =  sum_i (d l_i / d theta with k, v, h held constant)
                               +  (d(k, v, h) / d theta)' sum_i d l_i / d(k, v, h)

The backward pass of each micro-batch adds to the second sum, in at least float32. After the last
one, one backward pass goes through the trunk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from posttrain.data.forest import Forest
from posttrain.kernels.forest_cpu import merged_attention
from posttrain.kernels.products import wide
from posttrain.models.attention import FLEX_BLOCK, ForestPlan
from posttrain.models.prefixed_attention import Block, KeyValues, PrefixedPlan


class TrunkPlan(ForestPlan):
    """The plan of a trunk, whose keys and values in `kv` keep their way back to the weights."""

    def __init__(
        self, forest: Forest, *, prefix: list[tuple[Tensor, Tensor]] | None = None
    ) -> None:
        super().__init__(forest, keep_kv=True, prefix=prefix)

    def _keep(self, layer: int, key: Tensor, value: Tensor) -> None:
        self.kv[layer] = (key, value)

    def take(self) -> KeyValues:
        """Per layer, keys and values [Hkv, L, D]. The plan keeps none from now on: the graph of
        the pass holds the plan, and layers that are recomputed attend again.
        """
        layers = [self.kv[layer] for layer in sorted(self.kv)]
        self.kv, self._keep_kv = {}, False
        return [(key[0], value[0]) for key, value in layers]


class LeafPlan(PrefixedPlan):
    """The plan of leaves below one trunk, with a gradient of the trunk's keys and values."""

    _has_flex = True

    def __init__(self, forest: Forest, kv: KeyValues) -> None:
        super().__init__(forest, [Block(kv, 0, forest.num_tokens, 0)])
        self._kv = kv
        self._count = kv[0][0].shape[1]

    def above(self, layer: int) -> tuple[Tensor | None, Tensor | None]:
        """The trunk's keys and values [Hkv, L, D]."""
        return self._kv[layer]

    def _keep(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Nothing: no forest stands below the leaves."""

    def _fused(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        return merged_attention(query, key, value, self.shape, scale, self._kv[layer])

    def mask_mod(self, window: int | None) -> Callable[..., Tensor]:
        """FlexAttention's rule of visibility over the trunk's L keys, then the leaves' own."""
        ends, positions, count, width = self.ends, self.positions, self._count, window or 0

        def visible(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            own = k - count
            return (own < 0) | ((own <= q) & (q < ends[own.clamp(min=0)]))

        def near(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            own = k - count
            depth = torch.where(own < 0, k, positions[own.clamp(min=0)])
            return visible(b, h, q, k) & (positions[q] - depth < width)

        return visible if window is None else near

    def block_mask(self, window: int | None) -> BlockMask:
        """The block mask of layers with this window, built once."""
        if window not in self._block_masks:
            size = len(self.ends)
            self._block_masks[window] = create_block_mask(
                self.mask_mod(window),
                None,
                None,
                size,
                self._count + size,
                device=self.ends.device,
                BLOCK_SIZE=FLEX_BLOCK,
            )
        return self._block_masks[window]


class KeptTrunk:
    """What is kept of a trunk while its leaves go through in micro-batches.

    Args:
        key: names the trunk. hidden: its last hidden states [L, D]. plan: what computed them.
    Attributes:
        hidden, kv: the same numbers, cut off from the weights; gradients gather in them.
    """

    def __init__(self, key: object, hidden: Tensor, plan: TrunkPlan) -> None:
        self.key = key
        self._computed = [hidden, *(x for pair in plan.take() for x in pair)]
        self._cut = [_cut(x) for x in self._computed]
        self.hidden, *flat = self._cut
        self.kv: KeyValues = list(zip(flat[::2], flat[1::2], strict=True))

    def backward(self) -> None:
        """Go through the trunk with the gradients that its leaves have left; what was kept for
        that is freed.
        """
        pairs = [
            (x, cut.grad.to(x.dtype))
            for x, cut in zip(self._computed, self._cut, strict=True)
            if cut.grad is not None
        ]
        self._computed, self._cut = [], []
        if pairs:
            tensors, grads = zip(*pairs, strict=True)
            torch.autograd.backward(tensors, grads)


def _cut(x: Tensor) -> Tensor:
    """The same numbers as a leaf of autograd; sums of many gradients need float32."""
    return wide(x.detach()).requires_grad_(x.requires_grad)


def trunk_of(micro: Forest, count: int) -> Forest:
    """The first tokens of a micro-batch, as a forest of one chain without targets of its own."""
    ends = torch.full_like(micro.ends[:count], count)
    return _part(micro, slice(0, count), micro.positions[:count], ends)


def leaves_of(micro: Forest, count: int, shift: int = 0) -> Forest:
    """What stands below the first tokens of a micro-batch. shift: tokens before the trunk."""
    return _part(
        micro, slice(count, None), micro.positions[count:] + shift, micro.ends[count:] - count
    )


def _part(micro: Forest, tokens: slice, positions: Tensor, ends: Tensor) -> Forest:
    """Some tokens of a forest, as a trunk or a plan reads them: without targets."""
    changes: dict[str, Any] = {
        name: getattr(micro, name)[:0] for name in ("source", "target", "place", "sequence")
    }
    return replace(
        micro,
        tokens=micro.tokens[tokens],
        positions=positions,
        ends=ends,
        streams={},
        trunk=None,
        **changes,
    )
