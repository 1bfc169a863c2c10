"""Attention of one new token per row over its prompt and what it has written so far.

The keys and values of a prompt are kept once for all of its samples: the rows of a prompt are
queries against one matrix. What each row has written lies in buffers of its own. Both parts meet in
one softmax. Rows may join and leave between steps, so that they need not have written equally much.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from posttrain.engines.seats import Seats
from posttrain.kernels.forest_cpu import fused_attention
from posttrain.kernels.products import kernel_products
from posttrain.models.prefixed_attention import KeyValues


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
        own: keys and values of text between the prompt and what each row writes, None for rows
        without. They lie in the row's buffer, and count in its capacity as written.
    """

    # What rows must not see, made anew at every step: by window, and for the fused kernel.
    _hidden: dict[int | None, Tensor | None]
    _masks: tuple[Tensor | None, Tensor | None] | None

    _step = 16  # columns by which what rows have written grows

    def __init__(
        self,
        prompts: list[KeyValues],
        prompt_of: Tensor,
        capacity: Tensor,
        own: Sequence[KeyValues | None] = (),
    ) -> None:
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
        self._begin(own)

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

    def join(
        self,
        prompts: list[KeyValues],
        prompt_of: Tensor,
        capacity: Tensor,
        own: Sequence[KeyValues | None] = (),
    ) -> None:
        """Take in rows that start now; prompt_of counts the plan's prompts first, then the new
        ones. own: of the new rows.
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
        self._begin(own)

    def _begin(self, own: Sequence[KeyValues | None]) -> None:
        """Put what the newest rows begin with into their buffers."""
        sizes = [0 if kv is None else kv[0][0].shape[1] for kv in own]
        if not any(sizes):
            return
        first = len(self.written) - len(own)
        self.written[first:] = torch.tensor(sizes, device=self.written.device)
        self._measure()
        for layer, (keys, values) in enumerate(self._prompts):
            empty = (
                x.new_zeros(len(self.written), x.shape[1], 0, x.shape[3]) for x in (keys, values)
            )
            buffers = self._room(layer, *empty)
            for line, (kv, size) in enumerate(zip(own, sizes, strict=True), start=first):
                if kv is not None:
                    buffers[0][line, :, :size], buffers[1][line, :, :size] = kv[layer]

    def row_kv(self, line: int, start: int, *, skip: int = 0) -> KeyValues:
        """Copies of the keys and values that a row sees, from place skip + start on: of its
        prompt, then its own.
        """
        prompt, written = int(self.prompt_of[line]), int(self.written[line])
        start, length = start + skip, int(self.lengths[prompt])

        def joined(of_prompts: Tensor, of_rows: Tensor | None) -> Tensor:
            parts = [of_prompts[prompt, :, start:length]]
            if of_rows is not None:
                parts.append(of_rows[line, :, max(start - length, 0) : written])
            return torch.cat(parts, 1)

        buffers = [own or (None, None) for own in self._buffers]
        return [
            (joined(keys, own[0]), joined(values, own[1]))
            for (keys, values), own in zip(self._prompts, buffers, strict=True)
        ]

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
        scale = depth**-0.5 if scaling is None else float(scaling)
        grouped = query.reshape(rows, key.shape[1], -1, depth)
        longest = self._prompts[layer][0].shape[2]
        narrow = sliding_window is not None and longest + self._columns >= sliding_window
        plain = softcap is None and s_aux is None and depth == value.shape[-1]
        if self._has_kernel and plain and not narrow:
            mixed = self._fused(grouped, layer, keys, values, scale)
        else:
            mixed = self._masked(
                grouped * scale, layer, keys, values, sliding_window, softcap, s_aux
            )
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
            self._seats.seat(query), *self._prompts[layer], attn_mask=before, scale=scale
        )
        on_prompt = self._seats.unseat(on_prompt, group)
        prompt_lse = self._seats.unseat(prompt_lse[..., None], group)
        with kernel_products():  # for a few queries oneDNN would turn all keys over
            scores = (query * scale) @ keys.transpose(-1, -2)
        if of_row is not None:
            scores += of_row
        weights = torch.cat([scores, prompt_lse], -1).softmax(-1).to(values.dtype)
        return (weights[..., :-1] @ values).addcmul_(on_prompt, weights[..., -1:])

    def _masked(
        self,
        query: Tensor,
        layer: int,
        keys: Tensor,
        values: Tensor,
        window: int | None,
        softcap: float | None,
        sinks: Tensor | None,
    ) -> Tensor:
        """All scores in memory, for windows, caps, sinks and other devices than a CPU: scaled
        query [R, Hkv, g, D] -> [R, Hkv, g, Dv].
        """
        rows, kv_heads, group, _ = query.shape
        prompt_keys, prompt_values = self._prompts[layer]
        seat, unseat = self._seats.seat, self._seats.unseat
        before = unseat(seat(query) @ prompt_keys.transpose(-1, -2), group)  # [R, Hkv, g, L]
        with kernel_products():  # as in `_fused`
            of_row = query @ keys.transpose(-1, -2)  # [R, Hkv, g, t]
        if softcap is not None:
            before = softcap * torch.tanh(before / softcap)
            of_row = softcap * torch.tanh(of_row / softcap)
        precise = torch.promote_types(query.dtype, torch.float32)
        scores = torch.cat([before, of_row], dim=-1).to(precise)
        hidden = self._hidden_from(window)
        if hidden is not None:
            scores = scores.masked_fill_(hidden[:, None, None], -torch.inf)
        if sinks is not None:  # one more logit per head, which takes probability and gives nothing
            sinks = sinks.to(scores.dtype).reshape(1, kv_heads, group, 1)
            scores = torch.cat([scores, sinks.expand(rows, -1, -1, 1)], dim=-1)
        weights = scores.softmax(dim=-1).to(values.dtype)
        longest, columns = before.shape[-1], of_row.shape[-1]
        on_prompt, on_own = weights[..., :longest], weights[..., longest : longest + columns]
        return unseat(seat(on_prompt) @ prompt_values, group) + on_own @ values

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
        """Take note of which rows and prompts there are."""
        self._seats = Seats(self.prompt_of, len(self.lengths))
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
