"""What a figure was measured on: the processor, its memory, and the rate of its matrix products."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any


def describe() -> dict[str, Any]:
    """The machine as a result file names it."""
    fields: dict[str, str] = {}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip(), value.strip())
    flags = fields.get("flags", "").split()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": fields.get("model name", platform.processor() or platform.machine()),
        "family": fields.get("cpu family", ""),
        "model": fields.get("model", ""),
        "instructions": [
            flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags
        ],
        "cores": os.cpu_count(),
        "memory_gib": round(memory),
        "architecture": platform.machine(),
        "python": platform.python_version(),
    }


def gpu_name() -> str | None:
    """The CUDA device, None where there is none."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def matmul_rate(dtype: str, device: str = "cpu", size: int = 2048) -> float:
    """GFLOP/s of a large matrix product, the best of five, by the library that posttrain uses."""
    import torch

    from posttrain import kernels

    size = 8192 if device == "cuda" else size
    a = torch.randn(size, size, device=device).to(getattr(torch, dtype))
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    a @ a
    kernels.setup(keep_freed_memory=False, pause_collection=False)
    best = 0.0
    for _ in range(5):
        wait()
        started = time.perf_counter()
        with kernels.computing():
            for _ in range(4):
                a @ a
        wait()
        best = max(best, 4 * 2 * size**3 / 1e9 / (time.perf_counter() - started))
    return best


def matmul_rates() -> dict[str, float]:
    """Of the processor, by precision. A machine without instructions for bfloat16 is hundreds of
    times slower at it: there is no need to measure more, nor to run the settings that use it. The
    best of three small products decides, as other work may disturb one of them."""
    full, half = matmul_rate("float32"), max(matmul_rate("bfloat16", size=256) for _ in range(3))
    return {"float32": full, "bfloat16": matmul_rate("bfloat16") if half > 0.5 * full else half}
