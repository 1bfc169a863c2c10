"""Trained weights in memory that two processes of a machine see."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from posttrain.errors import ModelError

_ALIGNMENT = 64  # bytes


class Place(NamedTuple):
    """Where a parameter lies. start: its first byte."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    start: int
    num_bytes: int


class SharedWeights:
    """A block of memory without a name: it is gone when the last process that has it ends.

    Args:
        places: of the parameters. descriptor: of the block; None makes one.
    """

    def __init__(self, places: Sequence[Place], descriptor: int | None = None) -> None:
        self.places = list(places)
        size = max((p.start + p.num_bytes for p in places), default=0) or 1
        if descriptor is None:
            descriptor = _nameless()
            os.ftruncate(descriptor, size)
        self.descriptor = descriptor
        self._memory = mmap.mmap(descriptor, size)
        block = torch.frombuffer(self._memory, dtype=torch.uint8)
        self._tensors = {
            p.name: block[p.start : p.start + p.num_bytes].view(p.dtype).view(p.shape)
            for p in places
            if p.num_bytes
        }

    @classmethod
    def of(cls, model: Any) -> SharedWeights:
        """A block for the trained parameters of a model."""
        places, start = [], 0
        for name, parameter in _trained(model).items():
            size = parameter.numel() * parameter.element_size()
            places.append(Place(name, tuple(parameter.shape), parameter.dtype, start, size))
            start += -(-size // _ALIGNMENT) * _ALIGNMENT
        return cls(places)

    def write(self, model: Any) -> None:
        """Copy the trained weights of a model into the block."""
        trained = _trained(model)
        with torch.no_grad():
            for name, tensor in self._tensors.items():
                tensor.copy_(trained[name])

    def read(self, model: Any) -> None:
        """Copy the block into the parameters of a model."""
        parameters = dict(model.hf.named_parameters())
        with torch.no_grad():
            for name, tensor in self._tensors.items():
                parameters[name].copy_(tensor)

    def check(self, model: Any) -> None:
        """Refuse a model that has no such parameters.

        Raises:
            ModelError: names the first one.
        """
        parameters = dict(model.hf.named_parameters())
        for place in self.places:
            own = parameters.get(place.name)
            if own is None or tuple(own.shape) != place.shape or own.dtype != place.dtype:
                there = "none" if own is None else f"{tuple(own.shape)} {own.dtype}"
                raise ModelError(
                    f"the engine's process has loaded another model: parameter {place.name} is "
                    f"{there} and the trainer's is {place.shape} {place.dtype}; load the model by "
                    "pt.load, or sample in the trainer's process (leave overlap out)"
                )

    def close(self) -> None:
        """Give the descriptor back. The block stays as long as tensors of it do."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def _trained(model: Any) -> dict[str, Tensor]:
    return {n: p.detach() for n, p in model.hf.named_parameters() if p.requires_grad}


def _nameless() -> int:
    """A file without a name, in memory where the system has such files."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("posttrain-weights")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
