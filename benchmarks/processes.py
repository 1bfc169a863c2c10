"""One measurement, one process: memory and warm-up are properties of a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from settings import Setting
from workloads import Workload, build

HERE = Path(__file__).resolve().parent
PEER = HERE / ".peer"
PINNED = ["trl==1.16.0", "transformers==5.23.0", "torch==2.13.0"]
KEEPING = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=2147483647"
"""What posttrain asks of glibc (`posttrain.kernels.setup`), for the peer's process."""


class Failed(RuntimeError):
    """A process ended with an error; its last lines."""


def install() -> Path:
    """The peer's interpreter; its environment is made where it is missing."""
    python = PEER / "bin" / "python"
    if not (PEER / ".ready").exists():
        subprocess.run([sys.executable, "-m", "venv", str(PEER)], check=True)
        for packages in (
            PINNED[-1:],
            PINNED,
        ):  # torch alone first, so that nothing else chooses its build
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages], check=True)
        (PEER / ".ready").touch()
    return python


def folder_of(workload: Workload) -> Path:
    """The workload's model and rows, made where they are missing."""
    folder = HERE / ".work" / workload.name
    build(workload, folder)
    return folder


def measure_ours(
    workload: Workload, setting: Setting, weights: Path | None = None
) -> dict[str, float]:
    """posttrain of this tree with a setting."""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent / "src")}
    return _run(
        [sys.executable, str(HERE / "side_ours.py")], workload, setting, weights, environment
    )


def measure_peer(
    workload: Workload, setting: Setting, weights: Path | None = None
) -> dict[str, float]:
    """TRL with a setting."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if setting.get("keep_memory"):
        environment["GLIBC_TUNABLES"] = KEEPING
    return _run(
        [str(install()), str(HERE / "side_trl.py")], workload, setting, weights, environment
    )


def _run(
    program: list[str],
    workload: Workload,
    setting: Setting,
    weights: Path | None,
    environment: dict[str, str],
) -> dict[str, float]:
    command = [*program, workload.name, str(folder_of(workload)), json.dumps(setting)]
    command += [str(weights)] if weights else []
    process = subprocess.run(command, capture_output=True, text=True, cwd=HERE, env=environment)
    if process.returncode:
        raise Failed(f"{' '.join(command)}:\n{process.stderr[-2000:]}")
    figures: dict[str, float] = json.loads(process.stdout.strip().split("\n")[-1])
    return figures


def distance(weights: Path, reference: Path, start: Path) -> float:
    """How far two trainings ended from each other, as a share of how far the reference went
    from the start.
    """
    import torch
    from safetensors.torch import load_file

    ours, theirs, before = (load_file(path) for path in (weights, reference, start))
    names = sorted(set(ours) & set(theirs) & set(before))
    if not names:
        raise Failed(f"{weights} and {reference} have no tensor in common")

    def norm(a: dict[str, Any], b: dict[str, Any]) -> float:
        parts = [(a[name].double() - b[name].double()).square().sum() for name in names]
        return float(torch.stack(parts).sum().sqrt())

    return norm(ours, theirs) / norm(theirs, before)
