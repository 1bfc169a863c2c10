"""Attention over a token forest, plugged into Hugging Face models as the attention function
"posttrain".

A model whose attention implementation is "posttrain" asks the object passed as the keyword argument
`attention_plan` to attend; without one it attends as "sdpa" does, with the masks that transformers
builds. A plan has

    attend(module, query[B,H,T,D], key, value, *, scaling, sliding_window=None, softcap=None, ...)
    -> [B,T,H,D]

`ForestPlan` is the plan of a forest: one row in which token k is visible to token q iff k <= q <
ends[k].
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention, softmax

from posttrain.data.forest import Forest
from posttrain.errors import ModelError
from posttrain.kernels.forest_cpu import ForestShape, merged_attention
from posttrain.kernels.products import kernel_products, within

NAME = "posttrain"

_QUERY_CHUNK = 256  # rows of a piece of the masked path
_PIECE_SCORES = 1 << 22  # most score entries per head in one call of the masked path
_FLEX_BLOCK = 128


class AttentionPlan(Protocol):
    """What the keyword argument `attention_plan` of a model call must offer."""

    def attend(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        scaling: float | None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """query [B, H, T, D], key and value [B, Hkv, S, D] -> [B, T, H, D]."""
        ...


def without_mask(device: torch.device | str | None = None) -> torch.Tensor:
    """The `attention_mask` to pass along with a plan.

    A mask of four dimensions is taken by every transformers model as "already made", so that none
    is built; the plan ignores it.
    """
    return torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)


def posttrain_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    attention_plan: AttentionPlan | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The function that transformers calls in every attention layer."""
    if attention_plan is not None:
        return attention_plan.attend(
            module, query, key, value, scaling=scaling, dropout=dropout, **kwargs
        ), None
    softcap, sinks = kwargs.get("softcap"), kwargs.get("s_aux")
    if softcap is None and sinks is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(
            module,
            query,
            key,
            value,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            **{**kwargs, "softcap": None},
        )
    if attention_mask is None and query.shape[2] > 1:
        rows, columns = query.shape[2], key.shape[2]
        attention_mask = torch.ones(rows, columns, dtype=torch.bool, device=query.device).tril(
            columns - rows
        )
    mixed = eager_attention(query, key, value, attention_mask, scaling, softcap, sinks, dropout)
    return mixed.transpose(1, 2).contiguous(), None


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


class ForestPlan:
    """How to attend over one forest. Build it once per forest; every layer uses it.

    Args:
        forest: what will be passed as input_ids[1, N] and position_ids[1, N].
        keep_kv: store each layer's keys and values, [1, Hkv, N, D], in `kv[layer_idx]` (an engine's
        prefill).
        prefix: per layer, keys and values [1, Hkv, n, D] that stand for those of the first n
        tokens.

    Three ways, all exact: on CPU the runs of a forest by the fused kernel, trunk and leaves merged
    by log-sum-exp; on CUDA FlexAttention; for windows that bite, soft-capping, sinks, dropout and
    other devices, pieces with masks.
    """

    def __init__(
        self,
        forest: Forest,
        *,
        keep_kv: bool = False,
        prefix: list[tuple[torch.Tensor, torch.Tensor]] | None = None,
    ) -> None:
        self.ends = forest.ends
        self.positions = forest.positions
        self.kv: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        # Which layers have attended, and with which windows: for the probe.
        self.layers: set[int] = set()
        self.windows: set[int] = set()
        self._keep_kv = keep_kv
        self._prefix = prefix
        self.shape = ForestShape(forest.ends.cpu().numpy(), forest.ends.device)
        self._depth = int(forest.positions.max()) + 1
        self._pieces: dict[int | None, list[_Piece]] = {}
        self._block_masks: dict[int | None, BlockMask] = {}

    def attend(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        scaling: float | None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        dropout: float = 0.0,
        s_aux: torch.Tensor | None = None,
        position_bias: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """query [1, H, N, D], key and value [1, Hkv, N, D] -> [1, N, H, D]."""
        if position_bias is not None:
            raise ModelError(
                "this model adds a bias by relative position, which is not laid out over a "
                "forest; train it unshared"
            )
        if query.shape[2] != len(self.ends) or key.shape[2] != len(self.ends):
            raise ModelError(
                f"{key.shape[2]} keys for a forest of {len(self.ends)} tokens: the model reshapes "
                "its rows; train it unshared"
            )
        layer = int(module.layer_idx)  # type: ignore[arg-type]
        self.layers.add(layer)
        if self._prefix is not None:
            first_keys, first_values = (x.to(key.dtype) for x in self._prefix[layer])
            key = torch.cat([first_keys, key[:, :, first_keys.shape[2] :]], 2)
            value = torch.cat([first_values, value[:, :, first_values.shape[2] :]], 2)
        if self._keep_kv:
            self.kv[layer] = (key.detach(), value.detach())
        if sliding_window is not None:
            self.windows.add(int(sliding_window))
        window = (
            int(sliding_window)
            if sliding_window is not None and self._depth > sliding_window
            else None
        )
        scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
        plain = not dropout and s_aux is None and query.shape[-1] == value.shape[-1]
        if plain and query.device.type == "cpu" and window is None and softcap is None:
            return merged_attention(query, key, value, self.shape, scale)
        if plain and query.device.type == "cuda" and query.shape[-1] >= 16:
            mask = self.block_mask(window)
            capped = soft_capping(softcap) if softcap is not None else None
            grouped = query.shape[1] != key.shape[1]
            mixed = _compiled_flex()(query, key, value, capped, mask, scale, grouped)
            return mixed.transpose(1, 2).contiguous()
        return self._masked(query, key, value, scale, window, softcap, s_aux, dropout)

    @property
    def has_prefix(self) -> bool:
        """Whether keys and values were given that stand for those of the first tokens."""
        return self._prefix is not None

    def note(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """A layer has attended by `shape` itself, with key and value [N, Hkv, D]."""
        self.layers.add(layer)
        if self._keep_kv:
            self.kv[layer] = tuple(x.detach().transpose(0, 1)[None] for x in (key, value))  # type: ignore[assignment]

    def mask_mod(self, window: int | None) -> Callable[..., torch.Tensor]:
        """FlexAttention's rule of visibility: (k <= q) & (q < ends[k]), and q - k < window in
        depth.
        """
        ends, positions, width = self.ends, self.positions, window or 0

        def visible(
            b: torch.Tensor, h: torch.Tensor, q: torch.Tensor, k: torch.Tensor
        ) -> torch.Tensor:
            return (k <= q) & (q < ends[k])

        def near(
            b: torch.Tensor, h: torch.Tensor, q: torch.Tensor, k: torch.Tensor
        ) -> torch.Tensor:
            return visible(b, h, q, k) & (positions[q] - positions[k] < width)

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
                size,
                device=self.ends.device,
                BLOCK_SIZE=_FLEX_BLOCK,
            )
        return self._block_masks[window]

    @within(kernel_products)
    def _masked(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
        window: int | None,
        softcap: float | None,
        sinks: torch.Tensor | None,
        dropout: float,
    ) -> torch.Tensor:
        """The path that can do everything: pieces of queries with the keys they may see, masked
        by depth.
        """
        if window not in self._pieces:
            self._pieces[window] = _make_pieces(self.shape, self.positions, window)
        query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))  # [N, H, D]
        mixed = []
        for piece in self._pieces[window]:
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
        order = torch.cat(
            [piece.queries.index_select(0, piece.real_rows) for piece in self._pieces[window]]
        )
        flat = torch.cat(mixed)
        return torch.empty_like(flat).index_copy(0, order, flat)[None]


class _Piece:
    """Padded stretches of queries with their keys: queries [R * Lq], keys [R * Lk], mask [R, 1,
    Lq, Lk], real rows (not padding).
    """

    def __init__(
        self,
        stretches: list[tuple[int, int, np.ndarray]],
        positions: np.ndarray,
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
        distance = positions[queries][:, :, None] - positions[keys][:, None, :]
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

    def to(self, device: torch.device) -> _Piece:
        for name, tensor in vars(self).items():
            setattr(self, name, tensor.to(device))
        return self


def _make_pieces(shape: ForestShape, depth: torch.Tensor, window: int | None) -> list[_Piece]:
    positions = depth.cpu().numpy()
    stretches = []
    for run, (start, stop) in enumerate(zip(shape.starts, shape.stops)):
        path = np.concatenate(
            [np.arange(shape.starts[r], shape.stops[r]) for r in shape.ancestry(run)]
        )
        for first in range(start, stop, _QUERY_CHUNK):
            last = min(stop, first + _QUERY_CHUNK)
            keys = path[: len(path) - (stop - last)]
            if window is not None:
                keys = keys[positions[keys] > positions[first] - window]
            stretches.append((first, last, keys))
    stretches.sort(key=lambda s: (-len(s[2]), -(s[1] - s[0]), s[0]))
    groups: list[list[tuple[int, int, np.ndarray]]] = []
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
    return [_Piece(group, positions, window).to(depth.device) for group in groups]


@functools.cache
def soft_capping(cap: float) -> Callable[..., torch.Tensor]:
    """FlexAttention's score_mod of Gemma 2's logit capping: cap * tanh(score / cap)."""

    def capped(score: torch.Tensor, b: Any, h: Any, q: Any, k: Any) -> torch.Tensor:
        return cap * torch.tanh(score / cap)

    return capped


@functools.cache
def _compiled_flex() -> Callable[..., torch.Tensor]:
    return torch.compile(flex_attention, dynamic=True)


@functools.cache
def register() -> None:
    """Make the attention known to transformers. Its model code is imported only when a model is
    loaded: that takes seconds.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, posttrain_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
