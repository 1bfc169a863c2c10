"""Rows side by side under the prompts that they continue."""

from __future__ import annotations

import torch
from torch import Tensor


class Seats:
    """Where the rows of each prompt sit, so that they are queries against one matrix of keys.

    Args:
        prompt_of: int64 [R], the prompt of each row. num_prompts: P; each has at least one row.
    """

    def __init__(self, prompt_of: Tensor, num_prompts: int) -> None:
        counts = torch.bincount(prompt_of, minlength=num_prompts)
        width = int(counts.max())
        # In the order of their prompts, a row's seat is its distance from its prompt's first row.
        ordered, order = prompt_of.sort(stable=True)
        seats = torch.arange(len(ordered), device=ordered.device)
        within = seats - (counts.cumsum(0) - counts)[ordered]
        self._place = torch.empty_like(ordered)
        self._place[order] = ordered * width + within
        self._shape = (num_prompts, width)
        self._even = len(ordered) == num_prompts * width and bool((self._place == seats).all())

    def seat(self, x: Tensor) -> Tensor:
        """[R, Hkv, g, X] -> [P, Hkv, S * g, X]; empty seats hold zeros."""
        prompts, width = self._shape
        if not self._even:
            padded = x.new_zeros(prompts * width, *x.shape[1:])
            x = padded.index_copy(0, self._place, x)
        x = x.reshape(prompts, width, *x.shape[1:]).transpose(1, 2)
        return x.reshape(prompts, x.shape[1], -1, x.shape[-1])

    def unseat(self, x: Tensor, group: int) -> Tensor:
        """[P, Hkv, S * g, X] -> [R, Hkv, g, X]."""
        prompts, width = self._shape
        x = x.reshape(prompts, x.shape[1], width, group, x.shape[-1]).transpose(1, 2)
        x = x.reshape(prompts * width, *x.shape[2:])
        return x if self._even else x.index_select(0, self._place)
