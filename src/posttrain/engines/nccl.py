"""NCCL through its C library, without a process group of torch: as much of it as sending needs.

Unmeasured: no GPU has run it.
"""

from __future__ import annotations

import base64
import ctypes
import ctypes.util
from collections.abc import Callable
from typing import Any, Protocol

import torch

from posttrain.errors import ConfigError

_ID_BYTES = 128
_UINT8, _FLOAT32, _SUM = 1, 7, 0  # of nccl.h


class Communicator(Protocol):
    """A group of processes in which this one is rank 0."""

    def broadcast(self, tensor: torch.Tensor) -> None:
        """Send a tensor from rank 0 to all others."""
        ...

    def close(self) -> None:
        """Leave the group."""
        ...


class _UniqueId(ctypes.Structure):
    _fields_ = [("internal", ctypes.c_byte * _ID_BYTES)]


class NcclCommunicator:
    """Rank 0 of a group. All ranks join at the same time.

    Args:
        identity: 128 bytes of `ncclGetUniqueId`. world_size: number of processes.
        device: the GPU of this one.
    """

    def __init__(self, identity: bytes, world_size: int, device: torch.device) -> None:
        self._library, self._device = _library(), device
        self._handle = ctypes.c_void_p()
        unique = _UniqueId.from_buffer_copy(identity)
        with torch.cuda.device(device):
            self._call(
                "ncclCommInitRank", ctypes.byref(self._handle), ctypes.c_int(world_size), unique, 0
            )
            # The workers begin with a sum of one element, and would wait for it.
            one = torch.zeros(1, dtype=torch.float32, device=device)
            place = ctypes.c_void_p(one.data_ptr())
            self._call(
                "ncclAllReduce",
                place,
                place,
                ctypes.c_size_t(1),
                _FLOAT32,
                _SUM,
                self._handle,
                self._stream,
            )
            torch.cuda.synchronize(device)

    @property
    def _stream(self) -> ctypes.c_void_p:
        return ctypes.c_void_p(torch.cuda.current_stream(self._device).cuda_stream)

    def broadcast(self, tensor: torch.Tensor) -> None:
        tensor = tensor.to(self._device).contiguous()
        place = ctypes.c_void_p(tensor.data_ptr())
        size = ctypes.c_size_t(tensor.numel() * tensor.element_size())
        with torch.cuda.device(self._device):
            self._call("ncclBroadcast", place, place, size, _UINT8, 0, self._handle, self._stream)
            torch.cuda.current_stream(self._device).synchronize()  # before `tensor` is freed

    def close(self) -> None:
        if self._handle:
            self._call("ncclCommDestroy", self._handle)
            self._handle = ctypes.c_void_p()

    def _call(self, name: str, *arguments: Any) -> None:
        _checked(self._library, name, *arguments)


def connector(device: torch.device) -> Callable[[int], tuple[str, Callable[[], Communicator]]]:
    """Makes groups of the trainer's GPU and a server's workers.

    Returns:
        world size -> (the group's identity in base64, a function that joins it as rank 0).
    Raises:
        ConfigError: the trainer has no GPU, or no NCCL.
    """
    if device.type != "cuda":
        raise ConfigError(
            f"engine.sync: nccl sends from GPU to GPU, and the trained model is on {device}; take "
            "sync: disk"
        )
    library = _library()

    def connect(world_size: int) -> tuple[str, Callable[[], Communicator]]:
        unique = _UniqueId()
        _checked(library, "ncclGetUniqueId", ctypes.byref(unique))
        identity = bytes(unique)
        join = lambda: NcclCommunicator(identity, world_size, device)  # noqa: E731
        return base64.b64encode(identity).decode(), join

    return connect


def _library() -> Any:
    name = ctypes.util.find_library("nccl") or "libnccl.so.2"
    try:
        return ctypes.CDLL(name)
    except OSError as error:
        raise ConfigError(
            f"engine.sync: nccl needs the library {name}, which is not there ({error}); install "
            "nvidia-nccl, or take sync: disk"
        ) from error


def _checked(library: Any, name: str, *arguments: Any) -> None:
    status = getattr(library, name)(*arguments)
    if status:
        library.ncclGetErrorString.restype = ctypes.c_char_p
        reason = library.ncclGetErrorString(status).decode()
        raise ConfigError(f"engine.sync: {name} failed ({reason}); take sync: disk")
