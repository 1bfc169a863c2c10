"""Activations of a GPU's forward pass, kept in the memory of the CPU until the backward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

MIN_BYTES = 1 << 20
"""Smaller tensors stay where they are: a copy costs more time than it saves memory."""


class _Moved(NamedTuple):
    """A tensor on the CPU, and where it was."""

    copy: Tensor
    device: torch.device


@contextlib.contextmanager
def offloaded(weights: Iterable[Tensor], *, min_bytes: int = MIN_BYTES) -> Iterator[None]:
    """Within it what autograd keeps for the backward pass goes to the CPU, and comes back there.

    Args:
        weights: what is in memory in any case, so that it is not copied, views of it included.
        min_bytes: smaller tensors stay.
    """
    kept = {w.untyped_storage().data_ptr() for w in weights}

    def pack(x: Tensor) -> Tensor | _Moved:
        if x.untyped_storage().data_ptr() in kept or x.numel() * x.element_size() < min_bytes:
            return x
        is_cuda = x.device.type == "cuda"
        copy = torch.empty(x.size(), dtype=x.dtype, layout=x.layout, pin_memory=is_cuda)
        copy.copy_(x, non_blocking=is_cuda)
        return _Moved(copy, x.device)

    def unpack(packed: Tensor | _Moved) -> Tensor:
        if isinstance(packed, Tensor):
            return packed
        return packed.copy.to(packed.device, non_blocking=packed.copy.is_pinned())

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        yield
