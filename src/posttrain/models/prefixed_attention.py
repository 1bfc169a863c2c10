"""Attention of a forest whose tokens also see keys and values that were computed before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from posttrain.data.forest import Forest
from posttrain.kernels.forest_cpu import attend_blocks, attend_runs
from posttrain.models.attention import ForestPlan
from posttrain.models.masked_attention import Piece, make_pieces

KeyValues = list[tuple[torch.Tensor, torch.Tensor]]
"""Per layer, keys and values [Hkv, L, D] of a stretch of text."""


class Block(NamedTuple):
    """Keys and values that the forest's tokens from start to stop see, all of them.

    kv: of n tokens side by side in a text. position: of the first of them.
    """

    kv: KeyValues
    start: int
    stop: int
    position: int


class PrefixedPlan(ForestPlan):
    """The plan of a forest below blocks of keys and values; for prefill, without a backward pass.

    `kv` holds those of the forest's own tokens. On a CPU each block is one call of the fused
    kernel, merged by log-sum-exp; windows that bite, soft-capping, sinks and other devices take
    pieces with masks.

    Args:
        forest: its positions count the tokens of the blocks above.
        blocks: those that a token sees, in any order, are everything before its tree.
    """

    _has_flex = False  # its masks know of no keys before the forest

    def __init__(self, forest: Forest, blocks: Sequence[Block]) -> None:
        super().__init__(forest, keep_kv=True)
        self._blocks = blocks

    def attend_runs(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As `ForestPlan.attend_runs`, over the blocks as well."""
        out, lse = attend_runs(query, key, value, self.shape, scale)
        blocks = (
            (b.start, b.stop, *(x[None].to(query.dtype) for x in b.kv[layer])) for b in self._blocks
        )
        attend_blocks(query, blocks, out, lse, scale)  # type: ignore[arg-type]
        return out, lse

    def _fused(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        # The fused kernel is faster in float32 than in half precision.
        exact = torch.promote_types(query.dtype, torch.float32)
        q, k, v = (x[0].transpose(0, 1).contiguous().to(exact) for x in (query, key, value))
        return self.attend_runs(layer, q, k, v, scale)[0][None].to(query.dtype)

    def _seen(
        self, layer: int, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        parts = [b.kv[layer] for b in self._blocks]
        keys = torch.cat([*(k[None].to(key.dtype) for k, _ in parts), key], 2)
        values = torch.cat([*(v[None].to(value.dtype) for _, v in parts), value], 2)
        return keys, values

    def _pieces_of(self, window: int | None) -> list[Piece]:
        """Pieces whose keys are numbered through the blocks, then the forest."""
        sizes = [b.kv[0][0].shape[1] for b in self._blocks]
        offsets = np.cumsum([0, *sizes])
        own = self.positions.cpu().numpy()
        before = [b.position + np.arange(n) for b, n in zip(self._blocks, sizes, strict=True)]
        above = sorted(zip(self._blocks, offsets, sizes), key=lambda part: part[0].position)

        def run(number: int) -> tuple[int, int, np.ndarray]:
            start, stop = self.shape.starts[number], self.shape.stops[number]
            seen = [np.arange(o, o + n) for b, o, n in above if b.start <= start < b.stop]
            path = [
                offsets[-1] + np.arange(self.shape.starts[r], self.shape.stops[r])
                for r in self.shape.ancestry(number)
            ]
            return start, stop, np.concatenate([*seen, *path])

        runs = map(run, range(len(self.shape.starts)))
        of_keys = np.concatenate([*before, own])
        return make_pieces(runs, own, of_keys, self.positions.device, window)
