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
import warnings
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from posttrain.data.forest import Forest
from posttrain.errors import ModelError
from posttrain.kernels.forest_cpu import ForestShape, attend_runs, merged_attention
from posttrain.models.masked_attention import (
    Piece,
    eager_attention,
    masked_attention,
    pieces_of,
)

NAME = "posttrain"

FLEX_BLOCK = 128


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

    _has_flex = True  # on CUDA

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
        self._pieces: dict[int | None, list[Piece]] = {}
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
            self._keep(layer, key, value)
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
            return self._fused(layer, query, key, value, scale)
        has_flex = self._has_flex and query.device.type == "cuda"
        if plain and has_flex and query.shape[-1] >= 16 and compiled_flex.why_not is None:
            mask = self.block_mask(window)
            keys, values = self._seen(layer, key, value)
            capped = soft_capping(softcap) if softcap is not None else None
            grouped = query.shape[1] != key.shape[1]
            mixed = compiled_flex(query, keys, values, capped, mask, scale, grouped)
            if mixed is not None:
                return mixed.transpose(1, 2).contiguous()
        if window not in self._pieces:
            self._pieces[window] = self._pieces_of(window)
        key, value = self._seen(layer, key, value)
        pieces = self._pieces[window]
        return masked_attention(query, key, value, pieces, scale, softcap, s_aux, dropout)

    def _fused(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        """`attend` on a CPU, without windows, caps and sinks."""
        return merged_attention(query, key, value, self.shape, scale)

    def _pieces_of(self, window: int | None) -> list[Piece]:
        """The forest in pieces with masks."""
        return pieces_of(self.shape, self.positions, window)

    def _seen(
        self, layer: int, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """All keys and values that the pieces number."""
        return key, value

    def attend_runs(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scale: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Attention of a layer on a CPU without windows, caps and sinks, and its log-sum-exp.

        query [N, H, D], key and value [N, Hkv, D], not in half precision -> [N, H, D], [N, H].
        """
        return attend_runs(query, key, value, self.shape, scale)

    @property
    def has_prefix(self) -> bool:
        """Whether keys and values were given that stand for those of the first tokens."""
        return self._prefix is not None

    def above(self, layer: int) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Keys and values [Hkv, n, D] before the forest that get a gradient, in plans below a
        trunk (`models.kept_trunk`).
        """
        return None, None

    def note(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """A layer has attended by `shape` itself, with key and value [N, Hkv, D]."""
        self.layers.add(layer)
        if self._keep_kv:
            self._keep(layer, *(x.transpose(0, 1)[None] for x in (key, value)))

    def _keep(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Store a layer's keys and values [1, Hkv, N, D]."""
        self.kv[layer] = (key.detach(), value.detach())

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
            self._block_masks[window] = forest_block_mask(self.ends, self.mask_mod(window), window)
        return self._block_masks[window]


def forest_block_mask(
    ends: torch.Tensor, mask_mod: Callable[..., torch.Tensor], window: int | None
) -> BlockMask:
    """FlexAttention's block mask of a forest, from its runs' ends alone: no [N, N] mask is made.

    Of blocks of 128 keys j and 128 queries i, i is

        seen in part   j = i, or j < i and max ends[j] > first query of i
        seen whole     j < i and min ends[j] > last query of i, without a window

    Args:
        ends: int64 [N]. mask_mod: the rule within blocks that are seen in part.
        window: with one no block counts as seen whole.
    """
    size, device = len(ends), ends.device
    count = -(-size // FLEX_BLOCK)
    # Padding after the last token is seen by nobody, and must not make a block whole.
    padded = torch.nn.functional.pad(ends, (0, count * FLEX_BLOCK - size))
    blocks = padded.view(count, FLEX_BLOCK)
    last, first = blocks.amax(1), blocks.amin(1)
    number = torch.arange(count, device=device)
    start = number * FLEX_BLOCK
    stop = (start + FLEX_BLOCK).clamp(max=size)
    before = number[None, :] < number[:, None]  # [queries, keys]
    seen = before & (last[None, :] > start[:, None])
    whole = before & (first[None, :] >= stop[:, None])
    if window is not None:
        whole = torch.zeros_like(whole)
    part = (seen & ~whole) | (number[None, :] == number[:, None])
    return BlockMask.from_kv_blocks(
        *_ordered_blocks(part),
        *_ordered_blocks(whole),
        BLOCK_SIZE=FLEX_BLOCK,
        mask_mod=mask_mod,
        seq_lengths=(size, size),
    )


def _ordered_blocks(seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of bool [rows, columns]: how many columns each row sees, int32 [1, 1, rows], and their
    indices first, int32 [1, 1, rows, columns].
    """
    counts = seen.sum(-1, dtype=torch.int32)
    indices = seen.int().argsort(dim=-1, descending=True, stable=True).int()
    return counts[None, None], indices[None, None].contiguous()


@functools.cache
def soft_capping(cap: float) -> Callable[..., torch.Tensor]:
    """FlexAttention's score_mod of Gemma 2's logit capping: cap * tanh(score / cap)."""

    def capped(score: torch.Tensor, b: Any, h: Any, q: Any, k: Any) -> torch.Tensor:
        return cap * torch.tanh(score / cap)

    return capped


class CompiledFlex:
    """FlexAttention, compiled at its first use, as long as it can be: that takes Triton and a C
    compiler.

    Attributes:
        why_not: why it is used no more, None where it is.
    """

    def __init__(self) -> None:
        self.why_not: str | None = None
        self._function: Callable[..., torch.Tensor] | None = None

    def __call__(self, *inputs: Any) -> torch.Tensor | None:
        """The result, None where it cannot be compiled; warns once."""
        from torch._dynamo.exc import TorchDynamoException

        self._function = self._function or torch.compile(flex_attention, dynamic=True)
        try:
            return self._function(*inputs)
        except TorchDynamoException as error:
            self.why_not = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        warnings.warn(
            "attention over forests is by masks in memory and not by FlexAttention, which cannot "
            f"be compiled here: {self.why_not}",
            stacklevel=2,
        )
        return None


compiled_flex = CompiledFlex()


@functools.cache
def register() -> None:
    """Make the attention known to transformers. Its model code is imported only when a model is
    loaded: that takes seconds.
    """
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, posttrain_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
