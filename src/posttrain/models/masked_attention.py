"""Attention with masks: slower than the fused kernels, for what they cannot do (windows that bite,
soft-capping, sinks, dropout).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention, softmax

from posttrain.kernels.forest_cpu import ForestShape
from posttrain.kernels.products import kernel_products, within

_QUERY_CHUNK = 256  # rows of a piece
_PIECE_SCORES = 1 << 22  # most score entries per head in one call

Stretch = tuple[int, int, np.ndarray]
"""Queries from a start to a stop, and the indices of the keys that the last of them sees."""


def eager_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
    dropout: float = 0.0,
) -> torch.Tensor:
    """softmax(cap * tanh(scale * q k / cap)) v with everything spelled out; `sinks` [H] are scores
    that hold no value.

    mask: boolean (True = visible) or additive, broadcast over [B, H, T, S]; None shows everything.
    """
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = (query @ key.transpose(-1, -2)) * (
        query.shape[-1] ** -0.5 if scaling is None else scaling
    )
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    elif mask is not None:
        scores = scores + mask
    if sinks is not None:
        scores = torch.cat(
            [scores, sinks.view(1, -1, 1, 1).to(scores.dtype).expand(*scores.shape[:-1], 1)], -1
        )
    accurate = torch.float64 if scores.dtype == torch.float64 else torch.float32
    weights = softmax(scores, -1, dtype=accurate).to(value.dtype)[..., : key.shape[2]]
    return torch.nn.functional.dropout(weights, dropout) @ value


@within(kernel_products)
def masked_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    pieces: list[Piece],
    scale: float,
    softcap: float | None,
    sinks: torch.Tensor | None,
    dropout: float,
) -> torch.Tensor:
    """query [1, H, N, D], key and value [1, Hkv, K, D] -> [1, N, H, D], by pieces of queries with
    the keys that they may see.
    """
    query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))  # [N, H, D]
    mixed = []
    for piece in pieces:
        count, rows, columns = piece.mask.shape[0], *piece.mask.shape[2:]
        q = query.index_select(0, piece.queries).unflatten(0, (count, rows)).transpose(1, 2)
        k, v = (
            x.index_select(0, piece.keys).unflatten(0, (count, columns)).transpose(1, 2)
            for x in (key, value)
        )
        if softcap is None and sinks is None:
            grouped = q.shape[1] != k.shape[1]
            part = scaled_dot_product_attention(
                q, k, v, piece.mask, dropout, scale=scale, enable_gqa=grouped
            )
        else:
            part = eager_attention(q, k, v, piece.mask, scale, softcap, sinks, dropout)
        mixed.append(part.transpose(1, 2).flatten(0, 1).index_select(0, piece.real_rows))
    order = torch.cat([piece.queries.index_select(0, piece.real_rows) for piece in pieces])
    flat = torch.cat(mixed)
    return torch.empty_like(flat).index_copy(0, order, flat)[None]


class Piece:
    """Padded stretches of queries with their keys: queries [R * Lq], keys [R * Lk], mask [R, 1,
    Lq, Lk], real rows (not padding).
    """

    def __init__(
        self,
        stretches: list[Stretch],
        of_queries: np.ndarray,
        of_keys: np.ndarray,
        window: int | None,
    ) -> None:
        rows = max(stop - start for start, stop, _ in stretches)
        columns = max(len(keys) for _, _, keys in stretches)
        # Padding repeats the last row, so that no row is without a visible key; padded rows are
        # dropped afterwards.
        queries = np.stack(
            [np.minimum(np.arange(start, start + rows), stop - 1) for start, stop, _ in stretches]
        )
        keys = np.stack([np.pad(k, (0, columns - len(k)), mode="edge") for _, _, k in stretches])
        real = np.arange(columns)[None] < np.array([len(k) for _, _, k in stretches])[:, None]
        distance = of_queries[queries][:, :, None] - of_keys[keys][:, None, :]
        mask = (distance >= 0) & real[:, None, :]
        if window is not None:
            mask &= distance < window
        real_rows = (
            np.arange(rows)[None]
            < np.array([stop - start for start, stop, _ in stretches])[:, None]
        )
        self.queries = torch.from_numpy(queries.reshape(-1))
        self.keys = torch.from_numpy(keys.reshape(-1))
        self.mask = torch.from_numpy(mask[:, None])
        self.real_rows = torch.from_numpy(np.flatnonzero(real_rows))

    def to(self, device: torch.device) -> Piece:
        for name, tensor in vars(self).items():
            setattr(self, name, tensor.to(device))
        return self


def pieces_of(shape: ForestShape, depth: torch.Tensor, window: int | None) -> list[Piece]:
    """The pieces of a forest, each token a query. depth: int64 [N], positions."""
    positions = depth.cpu().numpy()
    paths = (
        np.concatenate([np.arange(shape.starts[r], shape.stops[r]) for r in shape.ancestry(run)])
        for run in range(len(shape.starts))
    )
    return make_pieces(
        zip(shape.starts, shape.stops, paths), positions, positions, depth.device, window
    )


def make_pieces(
    runs: Iterable[Stretch],
    of_queries: np.ndarray,
    of_keys: np.ndarray,
    device: torch.device,
    window: int | None,
) -> list[Piece]:
    """Cut runs of queries into stretches, and put those of like size together.

    Args:
        runs: (start, stop, keys): queries start to stop, and the keys that the last of them sees,
        of which the last stop - start are those of these queries. of_queries, of_keys: positions.
    """
    stretches = []
    for start, stop, path in runs:
        for first in range(start, stop, _QUERY_CHUNK):
            last = min(stop, first + _QUERY_CHUNK)
            keys = path[: len(path) - (stop - last)]
            if window is not None:
                keys = keys[of_keys[keys] > of_queries[first] - window]
            stretches.append((first, last, keys))
    stretches.sort(key=lambda s: (-len(s[2]), -(s[1] - s[0]), s[0]))
    groups: list[list[Stretch]] = []
    for stretch in stretches:
        if groups:
            rows = max(b - a for a, b, _ in [*groups[-1], stretch])
            columns = len(groups[-1][0][2])
            padded = (len(groups[-1]) + 1) * rows * columns
            useful = sum((b - a) * len(k) for a, b, k in [*groups[-1], stretch])
            if padded <= _PIECE_SCORES and padded <= 2 * useful + (1 << 14):
                groups[-1].append(stretch)
                continue
        groups.append([stretch])
    return [Piece(group, of_queries, of_keys, window).to(device) for group in groups]
