"""Matrix products in float32 by the library that is fastest at them, and the way there from half precision."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from torch import Tensor


def linear(x: Tensor, weight: Tensor, *, by_columns: bool = False) -> Tensor:
    """x [M, K] @ weight [N, K].T -> [M, N]; `by_columns` where it may lie in memory as N rows of M.

    Where no gradient is recorded, in float32 and on AMD processors with AVX-512, by oneDNN: on a
    Zen 4 what PyTorch calls otherwise (MKL) reached 50 to 80 % of its rate in products of the shapes of a head.
    """
    if x.dtype == weight.dtype == torch.float32 and x.device.type == "cpu" and not torch.is_grad_enabled() and _by_onednn():
        return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    if by_columns and x.device.type == "cpu":
        return (weight @ x.t()).t()  # with few rows up to 1.4 times as fast as the other order
    return x @ weight.t()


def wide(x: Tensor) -> Tensor:
    """In float32 what is in half precision, else as it is."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


@functools.cache
def _by_onednn() -> bool:
    """A rule and no measurement: the two round differently, so that a run would otherwise not be repeatable."""
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise") or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    told = Path("/proc/cpuinfo")
    return told.exists() and "AuthenticAMD" in told.read_text()
