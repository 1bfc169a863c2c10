"""Exact attention over a forest on CPU: fused kernels over runs, merged by log-sum-exp.

A run is a maximal stretch of equal `ends`: a chain of tokens without branches. All its descendants
are the tokens from its stop to its end, so the whole of a forest's attention is

    (a) every run with itself, causally: runs of like length in padded batches;
    (b) every run that has descendants, as keys, with those descendants, as queries: two contiguous
    slices, no mask.

Parts that share a query are merged by their log-sum-exp, as in ring attention (Liu et al. 2023,
arXiv:2310.01889):

    lse = log(exp(lse_a) + exp(lse_b))      out = out_a * exp(lse_a - lse) + out_b * exp(lse_b -
                                            lse)

The backward pass of a fused kernel needs only (out, lse): given the merged ones, it yields the
gradient of its part.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch

from posttrain.kernels.products import kernel_products, within

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default


def fused_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    attn_mask: torch.Tensor | None,
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of [B, H, T, D] on CPU and its log-sum-exp [B, H, T], with which the caller can
    merge it with attention over other keys.
    """
    with kernel_products():
        out, lse = _forward(query, key, value, 0.0, False, attn_mask=attn_mask, scale=scale)
    return out, lse


# tokens of a run for which a kernel's start costs less than to gather it and others in a batch
_ALONE = 48


class _Bucket(NamedTuple):
    """Runs of like length. rows: flat indices [R * L], padded with a run's last token; row real[i]
    is token flat[i].

    start: of a run that is alone, which is then a slice and needs no indices; else -1.
    """

    runs: int
    length: int
    start: int
    rows: torch.Tensor
    real: torch.Tensor | None
    flat: torch.Tensor


class ForestShape:
    """The runs of a forest and how they hang together.

    Args:
        ends: int64 [N]. device: where the index tensors go.
    Attributes:
        starts, stops, ends: per run. parents: the run it branches from, -1 for none.
    """

    def __init__(self, ends: np.ndarray, device: torch.device | str = "cpu") -> None:
        cuts = np.flatnonzero(np.diff(ends)) + 1
        self.starts = np.concatenate([[0], cuts]).tolist()
        self.stops = np.concatenate([cuts, [len(ends)]]).tolist()
        self.ends = ends[self.starts].tolist()
        self.parents: list[int] = []
        open_runs: list[int] = []
        for run, start in enumerate(self.starts):
            while open_runs and self.ends[open_runs[-1]] <= start:
                open_runs.pop()
            self.parents.append(open_runs[-1] if open_runs else -1)
            open_runs.append(run)
        self.trunks = [(a, b, e) for a, b, e in zip(self.starts, self.stops, self.ends) if e > b]
        self.size = len(ends)
        self._device = torch.device(device)
        self._buckets: list[_Bucket] | None = None

    def ancestry(self, run: int) -> list[int]:
        """The runs from the root down to `run`."""
        path = []
        while run >= 0:
            path.append(run)
            run = self.parents[run]
        return path[::-1]

    @property
    def buckets(self) -> list[_Bucket]:
        """Long runs alone, others batched by length: at least 3/4 as long as the longest of the
        batch, unless all are short.
        """
        if self._buckets is None:
            lengths = np.array(self.stops) - np.array(self.starts)
            order = np.argsort(-lengths, kind="stable")
            groups: list[list[int]] = []
            for run in order:
                if (
                    groups
                    and lengths[groups[-1][0]] < _ALONE
                    and (
                        lengths[run] * 4 >= lengths[groups[-1][0]] * 3
                        or lengths[groups[-1][0]] <= 16
                    )
                ):
                    groups[-1].append(int(run))
                else:
                    groups.append([int(run)])
            self._buckets = [self._bucket(np.array(sorted(group)), lengths) for group in groups]
        return self._buckets

    def _bucket(self, runs: np.ndarray, lengths: np.ndarray) -> _Bucket:
        length = int(lengths[runs].max())
        if len(runs) == 1:
            none = torch.empty(0, dtype=torch.int64, device=self._device)
            return _Bucket(1, length, self.starts[runs[0]], none, None, none)
        step = np.arange(length)
        rows = np.array(self.starts)[runs, None] + np.minimum(step, lengths[runs, None] - 1)
        real = np.flatnonzero(step < lengths[runs, None])
        flat = torch.from_numpy(rows.reshape(-1)[real]).to(self._device)
        full = len(real) == rows.size
        return _Bucket(
            len(runs),
            length,
            -1,
            torch.from_numpy(rows.reshape(-1)).to(self._device),
            None if full else torch.from_numpy(real).to(self._device),
            flat,
        )


def merged_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    shape: ForestShape,
    scale: float,
    above: tuple[torch.Tensor | None, torch.Tensor | None] = (None, None),
) -> torch.Tensor:
    """query [1, H, N, D], key and value [1, Hkv, N, D] -> [1, N, H, D], on CPU, in any float
    type.

    above: keys and values [Hkv, n, D] that every query sees too.
    """
    flat = (x[0].transpose(0, 1).contiguous() for x in (query, key, value))
    if query.dtype in (torch.bfloat16, torch.float16):
        # The fused kernel's backward pass is several times slower in half precision than the
        # conversions are.
        flat = (x.float() for x in flat)
    query_flat, key_flat, value_flat = flat
    seen = (None if x is None else x.to(query_flat.dtype) for x in above)
    mixed = _MergedAttention.apply(query_flat, key_flat, value_flat, shape, scale, *seen)
    return mixed[None].to(query.dtype)


@within(kernel_products)
def attend_runs(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, shape: ForestShape, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """query [N, H, D], key and value [N, Hkv, D] -> what they give, [N, H, D], and its
    log-sum-exp [N, H]; not in half.
    """
    out, lse = torch.empty_like(query), query.new_empty(query.shape[:2])
    for bucket in shape.buckets:
        part, part_lse = _forward(
            *(_gather(x, bucket) for x in (query, key, value)), 0.0, True, scale=scale
        )
        _put(out, part, bucket)
        _put(lse, part_lse, bucket)
    for start, stop, end in shape.trunks:
        trunk = (_slice(x, start, stop) for x in (key, value))
        part, part_lse = _forward(_slice(query, stop, end), *trunk, 0.0, False, scale=scale)
        _merge(out[stop:end], lse[stop:end], part[0], part_lse[0])
    return out, lse


@within(kernel_products)
def attend_blocks(
    query: torch.Tensor,
    blocks: Iterable[tuple[int, int, torch.Tensor, torch.Tensor]],
    out: torch.Tensor,
    lse: torch.Tensor,
    scale: float,
) -> None:
    """Let queries see further keys, all of a block: query, out [N, H, D] and lse [N, H] as of
    `attend_runs`, the latter two written over.

    blocks: (start, stop, key, value): queries from start to stop, [1, Hkv, n, D] each.
    """
    for start, stop, key, value in blocks:
        part, part_lse = _forward(_slice(query, start, stop), key, value, 0.0, False, scale=scale)
        _merge(out[start:stop], lse[start:stop], part[0], part_lse[0])


def _merge(
    out: torch.Tensor, lse: torch.Tensor, part: torch.Tensor, part_lse: torch.Tensor
) -> None:
    """Put a part [H, T, D], [H, T] to what there is, [T, H, D], [T, H], which is written over."""
    part, part_lse = part.transpose(0, 1), part_lse.transpose(0, 1)
    merged = torch.logaddexp(lse, part_lse)
    out.mul_((lse - merged).exp_()[..., None]).add_(part * (part_lse - merged).exp_()[..., None])
    lse.copy_(merged)


@within(kernel_products)
def attend_runs_backward(
    grad_out: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    shape: ForestShape,
    scale: float,
    *,
    into: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradients of query, key and value from that of `attend_runs`' first result; out, lse: its
    results.

    into: where the gradients go, new tensors by default.
    """
    grads = into or (torch.empty_like(query), torch.empty_like(key), torch.empty_like(value))
    for bucket in shape.buckets:
        grad_part = _gather(grad_out, bucket, blank=True)
        q, k, v, o, part_lse = (_gather(x, bucket) for x in (query, key, value, out, lse))
        parts = _backward(grad_part, q, k, v, o, part_lse, 0.0, True, scale=scale)
        for grad, part in zip(grads, parts):
            _put(grad, part, bucket)
    for start, stop, end in shape.trunks:
        grad_part, q, o, part_lse = (_slice(x, stop, end) for x in (grad_out, query, out, lse))
        k, v = _slice(key, start, stop), _slice(value, start, stop)
        parts = _backward(grad_part, q, k, v, o, part_lse, 0.0, False, scale=scale)
        for grad, part, (a, b) in zip(grads, parts, [(stop, end), (start, stop), (start, stop)]):
            grad[a:b] += part[0].transpose(0, 1)
    return grads


@within(kernel_products)
def attend_block_backward(
    grad_out: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    scale: float,
    grad_query: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients of a block's keys and values [Hkv, n, D], all of which every query sees.

    grad_out, query, out [N, H, D], lse [N, H]: as of the attention over runs and block together.
    grad_query: the block's part of the gradient of `query` is added to it.
    """
    grad, q, o, part_lse = (_slice(x, 0, len(query)) for x in (grad_out, query, out, lse))
    parts = _backward(grad, q, key[None], value[None], o, part_lse, 0.0, False, scale=scale)
    grad_query += parts[0][0].transpose(0, 1)
    return parts[1][0], parts[2][0]


class _MergedAttention(torch.autograd.Function):
    """query [N, H, D], key and value [N, Hkv, D] -> [N, H, D].

    above: keys and values [Hkv, n, D] that every query sees too, or None.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        shape: ForestShape,
        scale: float,
        *above: torch.Tensor | None,
    ) -> torch.Tensor:
        out, lse = attend_runs(query, key, value, shape, scale)
        if above[0] is not None and above[1] is not None:
            block = (0, len(query), above[0][None], above[1][None])
            attend_blocks(query, [block], out, lse, scale)
        ctx.save_for_backward(query, key, value, out, lse, *above)
        ctx.shape, ctx.scale = shape, scale
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_out: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, out, lse, *above = ctx.saved_tensors
        grad_out = grad_out.contiguous()
        grads = attend_runs_backward(grad_out, query, key, value, out, lse, ctx.shape, ctx.scale)
        of_above: tuple[torch.Tensor | None, torch.Tensor | None] = (None, None)
        if above[0] is not None:
            of_above = attend_block_backward(
                grad_out, query, above[0], above[1], out, lse, ctx.scale, grads[0]
            )
        return *grads, None, None, *of_above


def _slice(x: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """[N, H, ...] -> [1, H, stop - start, ...], a view."""
    return x[start:stop].transpose(0, 1)[None]


def _gather(x: torch.Tensor, bucket: _Bucket, blank: bool = False) -> torch.Tensor:
    """[N, H, ...] -> [R, H, L, ...]; `blank` puts zeros where there is padding."""
    if bucket.start >= 0:
        return _slice(x, bucket.start, bucket.start + bucket.length)
    if blank and bucket.real is not None:
        rows = x.new_zeros(bucket.runs * bucket.length, *x.shape[1:])
        rows.index_copy_(0, bucket.real, x.index_select(0, bucket.flat))
    else:
        rows = x.index_select(0, bucket.rows)
    return rows.unflatten(0, (bucket.runs, bucket.length)).transpose(1, 2)


def _put(whole: torch.Tensor, part: torch.Tensor, bucket: _Bucket) -> None:
    """Write [R, H, L, ...] to where its tokens are in [N, H, ...]."""
    if bucket.start >= 0:
        whole[bucket.start : bucket.start + bucket.length] = part[0].transpose(0, 1)
        return
    rows = part.transpose(1, 2).flatten(0, 1)
    whole.index_copy_(
        0, bucket.flat, rows if bucket.real is None else rows.index_select(0, bucket.real)
    )
