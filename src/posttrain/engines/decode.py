"""Attention of one new token per row over its prompt and what it has written so far.

The keys and values of a prompt are kept once for all of its samples: the rows of a prompt are
queries against one matrix. What each row has written lies in buffers of its own. Both parts meet in
one softmax. Rows may join and leave between steps, so that they need not have written equally much.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from posttrain.kernels.forest_cpu import fused_attention
from posttrain.kernels.products import kernel_products

KeyValues = list[tuple[Tensor, Tensor]]
"""Per layer, keys and values [Hkv, L, D] of one prompt."""


class DecodePlan:
    """The attention plan of a batch that decodes one token a row and step.

    P prompts, padded to the longest, per layer [P, Hkv, L, D]; R rows in any
    order, whose own keys and values lie in buffers [R, Hkv, width, D] that grow by some columns
    as they fill. Attention runs over the full buffers with a mask: slicing them first would be up
    to twice as slow.

    Args:
        prompts: keys and values of the distinct prompts. prompt_of: int64 [R], which prompt each
        row continues.
        capacity: int64 [R], tokens that each row may write. A row that has written them and is not
        dropped at once writes over its last one, so that it stays within its buffer and the model's
        positions.
    """

    # What rows must not see, made anew at every step: by window, and for the fused kernel.
    _hidden: dict[int | None, Tensor | None]
    _masks: tuple[Tensor | None, Tensor | None] | None

    _step = 16  # columns by which what rows have written grows

    def __init__(self, prompts: list[KeyValues], prompt_of: Tensor, capacity: Tensor) -> None:
        self.capacity = capacity
        self.lengths = torch.tensor([kv[0][0].shape[1] for kv in prompts], device=prompt_of.device)
        longest = max(kv[0][0].shape[1] for kv in prompts)
        self._prompts = [
            (
                _padded([kv[i][0] for kv in prompts], longest),
                _padded([kv[i][1] for kv in prompts], longest),
            )
            for i in range(len(prompts[0]))
        ]
        self._buffers: list[tuple[Tensor, Tensor] | None] = [None] * len(self._prompts)
        self.prompt_of = prompt_of
        self.written = torch.zeros_like(prompt_of)
        self._has_kernel = prompt_of.device.type == "cpu"
        self._arrange()

    def positions(self) -> Tensor:
        """Position of the token that each row is about to compute, [R]."""
        return self.lengths[self.prompt_of] + self.written

    def advance(self) -> None:
        """Every row has written one more token."""
        self._columns += 1
        self.written += 1
        if self._columns >= self._narrowest:
            torch.minimum(self.written, self.capacity - 1, out=self.written)
            self._measure()
        self.forget_masks()

    def join(self, prompts: list[KeyValues], prompt_of: Tensor, capacity: Tensor) -> None:
        """Take in rows that start now; prompt_of counts the plan's prompts first, then the new
        ones.
        """
        if prompts:
            new = DecodePlan(prompts, prompt_of[:0], capacity[:0])
            longest = max(self._prompts[0][0].shape[2], new._prompts[0][0].shape[2])
            self._prompts = [
                (_padded([*a[0], *b[0]], longest), _padded([*a[1], *b[1]], longest))
                for a, b in zip(self._prompts, new._prompts, strict=True)
            ]
            self.lengths = torch.cat([self.lengths, new.lengths])
        more = len(prompt_of)
        self._buffers = [
            None
            if b is None
            else (pad(b[0], (0, 0, 0, 0, 0, 0, 0, more)), pad(b[1], (0, 0, 0, 0, 0, 0, 0, more)))
            for b in self._buffers
        ]
        self.prompt_of = torch.cat([self.prompt_of, prompt_of])
        self.written = torch.cat([self.written, torch.zeros_like(prompt_of)])
        self.capacity = torch.cat([self.capacity, capacity])
        self._arrange()

    def keep(self, rows: Tensor) -> Tensor:
        """Drop all rows but these (indices [R], ascending, at least one), and the prompts that
        nobody continues.

        Returns:
            the indices of the prompts that stay.
        """
        self.written, self.capacity = self.written[rows], self.capacity[rows]
        used, self.prompt_of = torch.unique(self.prompt_of[rows], return_inverse=True)
        if len(used) < len(self.lengths):
            self.lengths = self.lengths[used]
            longest = int(self.lengths.max())
            self._prompts = [(k[used, :, :longest], v[used, :, :longest]) for k, v in self._prompts]
        self._arrange()
        width = self._width
        self._buffers = [
            None if b is None else (b[0][rows, :, :width], b[1][rows, :, :width])
            for b in self._buffers
        ]
        return used

    def attend(
        self,
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        scaling: float | None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        s_aux: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """query [R, H, 1, D], key and value [R, Hkv, 1, D] of the new tokens -> [R, 1, H, D]."""
        layer = int(module.layer_idx)  # type: ignore[arg-type]
        dtype = query.dtype
        query, key, value = self._as_stored(layer, query, key, value)
        keys, values = self._append(layer, key, value)
        rows, heads, _, depth = query.shape
        kv_heads = key.shape[1]
        group = heads // kv_heads
        scale = depth**-0.5 if scaling is None else float(scaling)
        grouped = query.reshape(rows, kv_heads, group, depth)
        prompt_keys, prompt_values = self._prompts[layer]
        narrow = (
            sliding_window is not None and prompt_keys.shape[2] + self._columns >= sliding_window
        )
        if (
            self._has_kernel
            and softcap is None
            and s_aux is None
            and not narrow
            and depth == value.shape[-1]
        ):
            return (
                self._fused(grouped, layer, keys, values, scale)
                .reshape(rows, 1, heads, depth)
                .to(dtype)
            )
        grouped = grouped * scale
        before = self._unseat(
            self._seat(grouped) @ prompt_keys.transpose(-1, -2), group
        )  # [R, Hkv, g, L]
        with kernel_products():  # as in `_fused`
            of_row = grouped @ keys.transpose(-1, -2)  # [R, Hkv, g, t]
        if softcap is not None:
            before, of_row = (
                softcap * torch.tanh(before / softcap),
                softcap * torch.tanh(of_row / softcap),
            )
        scores = torch.cat([before, of_row], dim=-1).to(
            torch.promote_types(query.dtype, torch.float32)
        )
        hidden = self._hidden_from(sliding_window)
        if hidden is not None:
            scores = scores.masked_fill_(hidden[:, None, None], -torch.inf)
        if (
            s_aux is not None
        ):  # attention sinks: one more logit per head that takes probability and gives nothing
            sinks = s_aux.to(scores.dtype).reshape(1, kv_heads, group, 1).expand(rows, -1, -1, 1)
            scores = torch.cat([scores, sinks], dim=-1)
        weights = scores.softmax(dim=-1).to(value.dtype)
        longest, columns = before.shape[-1], of_row.shape[-1]
        on_prompt, on_own = weights[..., :longest], weights[..., longest : longest + columns]
        mixed = self._unseat(self._seat(on_prompt) @ prompt_values, group) + on_own @ values
        return mixed.reshape(rows, 1, heads, value.shape[-1]).to(dtype)

    def attend_one(
        self, query: Tensor, key: Tensor, value: Tensor, layer: int, scale: float
    ) -> Tensor:
        """`attend` on a CPU without windows, caps and sinks: query [R, H, D], key and value [R,
        Hkv, D] -> [R, H, D].
        """
        dtype = query.dtype
        query, key, value = self._as_stored(layer, query, key, value)
        keys, values = self._append(layer, key[:, :, None], value[:, :, None])
        grouped = query.unflatten(1, (key.shape[1], -1)).contiguous()
        return self._fused(grouped, layer, keys, values, scale).flatten(1, 2).to(dtype)

    def _fused(
        self, query: Tensor, layer: int, keys: Tensor, values: Tensor, scale: float
    ) -> Tensor:
        """The prompt by the fused kernel, a row's own by batched products (a kernel's start for
        each row and head costs more than they do), in one softmax in which the whole prompt is a
        token: its score is its log-sum-exp, its value what the kernel gave. [R, Hkv, g, D] -> the
        same shape."""
        before, of_row = self._kernel_masks(query.dtype)
        group = query.shape[2]
        on_prompt, prompt_lse = fused_attention(
            self._seat(query), *self._prompts[layer], attn_mask=before, scale=scale
        )
        on_prompt, prompt_lse = (
            self._unseat(on_prompt, group),
            self._unseat(prompt_lse[..., None], group),
        )
        with kernel_products():  # for a few queries oneDNN would turn all keys over
            scores = (query * scale) @ keys.transpose(-1, -2)
        if of_row is not None:
            scores += of_row
        weights = torch.cat([scores, prompt_lse], -1).softmax(-1).to(values.dtype)
        return (weights[..., :-1] @ values).addcmul_(on_prompt, weights[..., -1:])

    def _kernel_masks(self, dtype: torch.dtype) -> tuple[Tensor | None, Tensor | None]:
        """What is added to the scores of the two parts, the same for all layers of a step; None
        where all is seen.
        """
        if self._masks is None:
            device = self.written.device
            before, of_row = None, None
            if self._ragged:
                hidden = (
                    torch.arange(self._prompts[0][0].shape[2], device=device)
                    >= self.lengths[:, None]
                )
                before = torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(
                    hidden, -torch.inf
                )[:, None, None]
            if self._has_unwritten:
                written = self.written[:1] if self._level else self.written
                hidden = torch.arange(self._width, device=device) > written[:, None]
                of_row = torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(
                    hidden, -torch.inf
                )[:, None, None]
            self._masks = (before, of_row)
        return self._masks

    def _arrange(self) -> None:
        """Seat the rows of each prompt side by side: row r sits at place[r] of [P, width] seats."""
        counts = torch.bincount(self.prompt_of, minlength=len(self.lengths))
        width = int(counts.max())
        # In the order of their prompts, a row's seat is its distance from its prompt's first row.
        ordered, order = self.prompt_of.sort(stable=True)
        seats = torch.arange(len(ordered), device=ordered.device)
        within = seats - (counts.cumsum(0) - counts)[ordered]
        self._place = torch.empty_like(ordered)
        self._place[order] = ordered * width + within
        self._seats = (len(counts), width)
        self._even = len(ordered) == len(counts) * width and bool((self._place == seats).all())
        self._ragged = bool((self.lengths != self._prompts[0][0].shape[2]).any())
        self.forget_masks()
        self._rows = torch.arange(len(self.prompt_of), device=self.prompt_of.device)
        self._narrowest, self._most = (
            (int(x) for x in self.capacity.aminmax()) if len(self.capacity) else (0, 0)
        )
        self._measure()

    def forget_masks(self) -> None:
        """What rows must not see is made anew when it is next needed."""
        self._hidden = {}
        self._masks = None

    def _measure(self) -> None:
        """The most that a row has written, and whether all rows have written as much."""
        self._columns = int(self.written.max()) if len(self.written) else 0
        self._level = bool((self.written == self._columns).all())

    def _as_stored(self, layer: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Tensors in the type of the prompts' keys, which need not be the model's
        (`kernels.fused`).
        """
        return tuple(x.to(self._prompts[layer][0].dtype) for x in tensors)

    def _append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Put the new keys and values behind each row's own; what all rows have written, [R,
        Hkv, width, D].
        """
        buffers = self._room(layer, key, value)
        for buffer, new in zip(buffers, (key, value), strict=True):
            if self._level:
                buffer[:, :, self._columns] = new[:, :, 0]
            else:
                buffer[self._rows, :, self.written] = new[:, :, 0]
        return buffers

    @property
    def _width(self) -> int:
        """Columns of a row's own that are attended to."""
        return min(-(-(self._columns + 1) // self._step) * self._step, self._most)

    @property
    def _has_unwritten(self) -> bool:
        """Whether there are columns that some row has not come to."""
        return not self._level or self._width > self._columns + 1

    def _room(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """The buffers of a layer, grown where they are full."""
        buffers = self._buffers[layer] or (key[:, :, :0], value[:, :, :0])
        more = self._width - buffers[0].shape[2]
        if more > 0:
            # Zeros and not just any memory: a hidden column has weight zero, and zero times NaN is
            # NaN.
            key_rest, value_rest = (
                x.new_zeros(*x.shape[:2], more, x.shape[3]) for x in (key, value)
            )
            buffers = self._buffers[layer] = (
                torch.cat([buffers[0], key_rest], 2),
                torch.cat([buffers[1], value_rest], 2),
            )
        return buffers

    def _seat(self, x: Tensor) -> Tensor:
        """[R, Hkv, g, X] -> [P, Hkv, S * g, X]; empty seats hold zeros."""
        prompts, width = self._seats
        if not self._even:
            padded = x.new_zeros(prompts * width, *x.shape[1:])
            x = padded.index_copy(0, self._place, x)
        x = x.reshape(prompts, width, *x.shape[1:]).transpose(1, 2)
        return x.reshape(prompts, x.shape[1], -1, x.shape[-1])

    def _unseat(self, x: Tensor, group: int) -> Tensor:
        """[P, Hkv, S * g, X] -> [R, Hkv, g, X]."""
        prompts, width = self._seats
        x = x.reshape(prompts, x.shape[1], width, group, x.shape[-1]).transpose(1, 2)
        x = x.reshape(prompts * width, *x.shape[2:])
        return x if self._even else x.index_select(0, self._place)

    def _hidden_from(self, window: int | None) -> Tensor | None:
        """What each row must not see, bool [R, L + t], the same for all layers of a step; None
        where it may see all.

        Hidden are the padding of shorter prompts, the columns that a row has not come to, and what
        has left the window.
        """
        if window is not None and self._prompts[0][0].shape[2] + self._width <= window:
            window = None
        if window not in self._hidden:
            needed = self._ragged or self._has_unwritten or window is not None
            self._hidden[window] = self._unseen(window) if needed else None
        return self._hidden[window]

    def _unseen(self, window: int | None) -> Tensor:
        """What each row must not see of its prompt and of the columns of its own that are
        attended to, bool [R, L + width].
        """
        device = self.written.device
        places = torch.arange(self._prompts[0][0].shape[2], device=device)[None]
        columns = torch.arange(self._width, device=device)[None]
        written, now = self.written[:, None], self.positions()[:, None]
        before = places >= self.lengths[self.prompt_of][:, None]
        of_row = columns > written
        if window is not None:
            before |= now - places >= window
            of_row |= written - columns >= window
        return torch.cat([before, of_row], dim=-1)


def _padded(parts: list[Tensor], longest: int) -> Tensor:
    """[Hkv, L_i, D] each -> [len, Hkv, longest, D], with zeros behind."""
    whole = parts[0].new_zeros(len(parts), parts[0].shape[0], longest, parts[0].shape[2])
    for line, part in zip(whole, parts, strict=True):
        width = min(longest, part.shape[1])
        line[:, :width] = part[:, :width]
    return whole
