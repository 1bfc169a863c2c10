"""Attention of one new token per row over its prompt and what it has written so far.

The keys and values of a prompt are kept once for all of its samples: the rows of a prompt are queries against one matrix.
What each row has written lies in buffers of its own. Both parts meet in one softmax.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

KeyValues = list[tuple[Tensor, Tensor]]
"""Per layer, keys and values [Hkv, L, D] of one prompt."""


class PromptKeys:
    """Keys and values of P prompts, padded to the longest: per layer [P, Hkv, L, D]. lengths: int64 [P]."""

    def __init__(self, prompts: list[KeyValues]) -> None:
        longest = max(kv[0][0].shape[1] for kv in prompts)
        self.layers: list[tuple[Tensor, Tensor]] = []
        for layer in range(len(prompts[0])):
            key, value = prompts[0][layer]
            keys = key.new_zeros(len(prompts), key.shape[0], longest, key.shape[2])
            values = value.new_zeros(len(prompts), value.shape[0], longest, value.shape[2])
            for p, kv in enumerate(prompts):
                keys[p, :, : kv[layer][0].shape[1]] = kv[layer][0]
                values[p, :, : kv[layer][1].shape[1]] = kv[layer][1]
            self.layers.append((keys, values))
        self.lengths = torch.tensor([kv[0][0].shape[1] for kv in prompts], device=self.layers[0][0].device)


class DecodePlan:
    """The attention plan of a batch that decodes one token a row and step.

    Args:
        prompts: keys and values of the distinct prompts. prompt_of: int64 [R], which prompt each row continues.
        capacity: tokens a row may write at most.
    """

    def __init__(self, prompts: PromptKeys, prompt_of: Tensor, capacity: int) -> None:
        self.prompts = prompts
        self.capacity = capacity
        self.written = 0
        self._buffers: list[tuple[Tensor, Tensor] | None] = [None] * len(prompts.layers)
        self._arrange(prompt_of)

    def _arrange(self, prompt_of: Tensor) -> None:
        """Seat the rows of each prompt side by side: seat[p, s] is a row, or -1; place[r] is the row's seat."""
        self.prompt_of = prompt_of
        used, compact, counts = torch.unique(prompt_of, return_inverse=True, return_counts=True)
        self._used = used
        width = int(counts.max())
        # Rows are in the order of their prompts, so a row's seat is its distance from its prompt's first row.
        first = counts.cumsum(0) - counts
        within = torch.arange(len(prompt_of), device=prompt_of.device) - first[compact]
        self._place = compact * width + within
        self._seats = (len(used), width)
        self._even = bool((counts == width).all())
        self._lengths = self.prompts.lengths[used]
        self._all = len(used) == len(self.prompts.lengths)

    def positions(self) -> Tensor:
        """Position of the token that each row is about to compute, [R]."""
        return self.prompts.lengths[self.prompt_of] + self.written

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these (indices in increasing order)."""
        self._buffers = [None if b is None else (b[0].index_select(0, rows), b[1].index_select(0, rows)) for b in self._buffers]
        self._arrange(self.prompt_of[rows])

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
        keys, values = self._append(layer, key, value)
        rows, heads, _, depth = query.shape
        kv_heads = key.shape[1]
        scale = depth**-0.5 if scaling is None else float(scaling)
        grouped = query.reshape(rows, kv_heads, heads // kv_heads, depth) * scale
        prompt_keys, prompt_values = self.prompts.layers[layer]
        if not self._all:
            prompt_keys, prompt_values = prompt_keys[self._used], prompt_values[self._used]
        seated = self._seat(grouped)  # [P, Hkv, S * g, D]
        before = self._unseat(seated @ prompt_keys.transpose(-1, -2), heads // kv_heads)  # [R, Hkv, g, L]
        own = grouped @ keys.transpose(-1, -2)  # [R, Hkv, g, t]
        if softcap is not None:
            before, own = softcap * torch.tanh(before / softcap), softcap * torch.tanh(own / softcap)
        before, own = self._mask(before, own, sliding_window)
        parts = [before.float(), own.float()]
        if s_aux is not None:  # attention sinks: one more logit per head that takes probability and gives nothing
            parts.append(s_aux.float().reshape(1, kv_heads, heads // kv_heads, 1).expand(rows, -1, -1, 1))
        weights = torch.cat(parts, dim=-1).softmax(dim=-1).to(value.dtype)
        longest = before.shape[-1]
        on_prompt, on_own = weights[..., :longest], weights[..., longest : longest + own.shape[-1]]
        mixed = self._unseat(self._seat(on_prompt) @ prompt_values, heads // kv_heads) + on_own @ values
        return mixed.reshape(rows, 1, heads, value.shape[-1])

    def _append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        buffers = self._buffers[layer]
        if buffers is None or buffers[0].shape[2] <= self.written:
            size = min(self.capacity, max(32, 2 * self.written))
            fresh = (
                key.new_empty(key.shape[0], key.shape[1], size, key.shape[3]),
                value.new_empty(value.shape[0], value.shape[1], size, value.shape[3]),
            )
            if buffers is not None:
                for new, old in zip(fresh, buffers, strict=True):
                    new[:, :, : self.written] = old[:, :, : self.written]
            buffers = self._buffers[layer] = fresh
        buffers[0][:, :, self.written] = key[:, :, 0]
        buffers[1][:, :, self.written] = value[:, :, 0]
        return buffers[0][:, :, : self.written + 1], buffers[1][:, :, : self.written + 1]

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

    def _mask(self, before: Tensor, own: Tensor, window: int | None) -> tuple[Tensor, Tensor]:
        """Hide the padding of shorter prompts, and what has left a sliding window."""
        lengths = self.prompts.lengths[self.prompt_of]
        places = torch.arange(before.shape[-1], device=before.device)
        ragged = len(self._lengths) > 1 or self.prompts.layers[0][0].shape[2] != int(self._lengths[0])
        now = lengths + self.written
        hidden = None
        if ragged:
            hidden = places[None] >= lengths[:, None]
        if window is not None and self.prompts.layers[0][0].shape[2] + self.written >= window:
            far = now[:, None] - places[None] >= window
            hidden = far if hidden is None else hidden | far
            ages = self.written - torch.arange(own.shape[-1], device=own.device)
            own = own.masked_fill(ages >= window, -torch.inf)
        if hidden is not None:
            before = before.masked_fill(hidden[:, None, None], -torch.inf)
        return before, own
