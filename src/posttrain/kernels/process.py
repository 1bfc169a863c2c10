"""Process-wide switches of the CPU fast paths: chosen once, off in library use.

Three settings make training on a CPU faster and belong to a whole process, so that a library must
not turn them on by itself. `setup` does, when a program that owns its process asks for it: the
command line calls it before a command that computes. A script may do the same.

    fast_products       float32 matrix products by oneDNN on the processors where it is faster. It
                        rounds differently from MKL: results repeat only under the same setting.
    keep_freed_memory   the C library keeps freed memory for the next allocation.
    pause_collection    Python looks for no cyclic garbage while rows become sequences.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass

import torch

from posttrain import memory

_MMAP_MAX, _TRIM_THRESHOLD = -4, -1  # of malloc.h


@dataclass(frozen=True, slots=True)
class Switches:
    """What the process has been asked for. All off until `setup` is called."""

    fast_products: bool = False
    keep_freed_memory: bool = False
    pause_collection: bool = False


_OFF = Switches()
_switches = _OFF


def setup(
    *, fast_products: bool = True, keep_freed_memory: bool = True, pause_collection: bool = True
) -> Switches:
    """Choose the switches of this process. Call it once, before models are loaded.

    Where there is a CUDA device, fast_products and keep_freed_memory stay off: PyTorch reads the
    switch of products for the device as well, and weights pass through the memory of the host only
    once.

    Args:
        fast_products, keep_freed_memory, pause_collection: see the module. Freed memory that is
        kept stays with the process until it ends.
    Returns:
        The switches that are on. fast_products may be on and have no effect, as the processor
        decides (`kernels.products`).
    """
    global _switches
    on_gpu = torch.cuda.is_available()
    _switches = Switches(
        fast_products=fast_products and not on_gpu,
        keep_freed_memory=keep_freed_memory and not on_gpu and _keep_freed_memory(),
        pause_collection=pause_collection,
    )
    memory.may_pause_collection(pause_collection)
    return _switches


def reset() -> None:
    """Switch everything off again. glibc goes on keeping freed memory, which changes no result."""
    global _switches
    _switches = _OFF
    memory.may_pause_collection(False)


def switches() -> Switches:
    """The switches of this process as they are now."""
    return _switches


def _keep_freed_memory() -> bool:
    """Ask glibc to keep freed memory for the next allocation instead of returning it.

    A training step on a CPU allocates the same large tensors again and again. By default each comes
    as fresh pages that the kernel has to clear, which takes up to a third of a step's time. The
    process then stays as large as its peak.

    Returns:
        Whether it was done: on Linux with glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return (
        mallopt is not None
        and bool(mallopt(_MMAP_MAX, 0))
        and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))
    )
