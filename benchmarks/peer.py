"""posttrain beside TRL on the same rows, model folder and machine, alternating.

    .venv/bin/python benchmarks/peer.py [--pairs 5] [--only sft,grpo,sample]
    .venv/bin/python benchmarks/peer.py --only sft-0.6b,dpo-0.6b,grpo-0.6b,sample-0.6b      # on a GPU

The peer is installed in an environment of its own, benchmarks/.peer, at the version pinned here. Every measurement is a
process of its own. In each round every setting of a workload runs once; ratios are medians over rounds of the peer's time
by ours in the same round, so that what the machine does meanwhile falls on both.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

from workloads import WORKLOADS, Workload, as_json, build, tokens_of

HERE = Path(__file__).resolve().parent
PEER = HERE / ".peer"
PINNED = ["trl==1.16.0", "transformers==5.23.0", "torch==2.13.0"]
OURS = ["fp32", "bf16"]
HALF = ("bf16", "default")  # settings that multiply in bfloat16
THEIRS = {
    "sft": ["default", "fp32", "grouped"],
    "dpo": ["default", "fp32"],
    "reward": ["default", "fp32"],
    "grpo": ["default", "fp32"],
    "sample": ["generate"],
    "tokenise": ["map"],
}


def install() -> Path:
    """The peer's interpreter; its environment is made where it is missing."""
    python = PEER / "bin" / "python"
    if not (PEER / ".ready").exists():
        subprocess.run([sys.executable, "-m", "venv", str(PEER)], check=True)
        for packages in (PINNED[-1:], PINNED):  # torch alone first, so that nothing else chooses its build
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages], check=True)
        (PEER / ".ready").touch()
    return python


def measure(python: str | Path, script: str, workload: Workload, folder: Path, setting: str) -> dict[str, float]:
    """One process; what it printed last."""
    command = [str(python), str(HERE / script), workload.name, str(folder), setting]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HERE)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    found: dict[str, float] = json.loads(done.stdout.strip().split("\n")[-1])
    return found


def matmul_rate(dtype: str, device: str = "cpu", size: int = 2048) -> float:
    """GFLOP/s of a large matrix product, the best of five, by the library that posttrain uses: what the machine can do now."""
    import torch

    from posttrain.models.products import fast_products

    size = 8192 if device == "cuda" else size
    a = torch.randn(size, size, device=device).to(getattr(torch, dtype))
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    a @ a
    best = 0.0
    for _ in range(5):
        wait()
        started = time.perf_counter()
        with fast_products():
            for _ in range(4):
                a @ a
        wait()
        best = max(best, 4 * 2 * size**3 / 1e9 / (time.perf_counter() - started))
    return best


def gpu_name() -> str | None:
    """The CUDA device, None where there is none."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def matmul_rates() -> dict[str, float]:
    """Of the processor, by precision. A machine without instructions for bfloat16 is hundreds of times slower at it: no need to
    measure more, nor to run the settings that use it."""
    full, half = matmul_rate("float32"), matmul_rate("bfloat16", size=256)
    return {"float32": full, "bfloat16": matmul_rate("bfloat16") if half > 0.5 * full else half}


def compare(workload: Workload, peer: Path, pairs: int, half: bool) -> dict[str, Any]:
    """All settings of a workload in rounds; those in bfloat16 only where the machine is made for it (`half`)."""
    folder = HERE / ".work" / workload.name
    build(workload, folder)
    settings = ["fp32"] if workload.kind == "tokenise" else OURS
    sides = [("posttrain", sys.executable, "side_ours.py", s) for s in settings]
    sides += [("TRL" if workload.kind != "sample" else "transformers", peer, "side_trl.py", s) for s in THEIRS[workload.kind]]
    on_gpu = workload.device == "cuda"  # nobody trains in float32 there
    sides = [side for side in sides if (side[3] != "fp32" if on_gpu else half or side[3] not in HALF)]
    runs: dict[str, list[dict[str, float]]] = {f"{who} {setting}": [] for who, _, _, setting in sides}
    for _ in range(pairs):
        for who, python, script, setting in sides:
            dtype = "bfloat16" if on_gpu or setting in HALF else "float32"
            before = matmul_rate(dtype, workload.device)
            found = measure(python, script, workload, folder, setting)
            # A shared machine is not equally fast at all times: its rate is taken at both ends of every run.
            runs[f"{who} {setting}"].append({**found, "matmul_gflops": (before + matmul_rate(dtype, workload.device)) / 2})
    return {"sizes": as_json(workload), "tokens": tokens_of(workload), "runs": runs}


def show(name: str, found: dict[str, Any]) -> None:
    """The table of a workload."""
    runs, tokens = found["runs"], found["tokens"]
    ours = [k for k in runs if k.startswith("posttrain")]
    print(f"\n{name}: {tokens['distinct']:.0f} distinct tokens a step, {tokens['padded']:.0f} padded")
    print(f"{'':<24}{'s a step':>9}{'spread':>15}{'distinct/s':>12}{'padded/s':>10}{'MiB':>7}{'of matmul':>11}", end="")
    print("".join(f"{'x ' + k.split()[1]:>9}{'cpu x':>8}" for k in ours))
    for key, row in runs.items():
        seconds = [r["seconds"] for r in row]
        middle = statistics.median(seconds)
        share = statistics.median(tokens["gflop"] / r["seconds"] / r["matmul_gflops"] for r in row)
        line = f"{key:<24}{middle:>9.2f}{f'{min(seconds):.2f}-{max(seconds):.2f}':>15}{tokens['distinct'] / middle:>12.0f}"
        line += f"{tokens['padded'] / middle:>10.0f}{statistics.median(r['peak_mib'] for r in row):>7.0f}{share:>11.0%}"
        if key not in ours:
            for other in (runs[k] for k in ours):
                for figure, width in (("seconds", 9), ("cpu_seconds", 8)):
                    ratio = statistics.median(t[figure] / o[figure] for t, o in zip(row, other, strict=True))
                    line += f"{ratio:>{width}.2f}"
        print(line, flush=True)


def main() -> None:
    """Run, print, and write results/."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--install", action="store_true", help="make the peer's environment and do nothing else")
    parser.add_argument("--only", help="names, by comma: " + ", ".join(WORKLOADS) + " (all of a CPU)")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else [w.name for w in WORKLOADS.values() if w.device == "cpu"]
    if unknown := [name for name in names if name not in WORKLOADS]:
        parser.error(f"there is no workload {unknown[0]}; there are {', '.join(WORKLOADS)}")
    if any(WORKLOADS[name].device == "cuda" for name in names) and gpu_name() is None:
        parser.error("there is no CUDA device for the workloads of a GPU")
    peer = install()
    if options.install:
        return
    rates = matmul_rates()
    print(f"matrix products: float32 {rates['float32']:.0f}, bfloat16 {rates['bfloat16']:.0f} GFLOP/s")
    target = HERE / "results" / f"peer-{date.today()}.json"
    result: dict[str, Any] = json.loads(target.read_text()) if target.exists() else {"workloads": {}}
    result |= {
        "date": str(date.today()), "command": "benchmarks/peer.py", "versions": PINNED, "python": platform.python_version(),
        "cores": os.cpu_count(), "machine": platform.machine(), "gpu": gpu_name(), "matmul_gflops": rates,
    }  # fmt: skip
    for name in names:
        result["workloads"][name] = compare(WORKLOADS[name], peer, options.pairs, rates["bfloat16"] > rates["float32"])
        show(name, result["workloads"][name])
        target.parent.mkdir(exist_ok=True)
        target.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\nwritten to {target}")


if __name__ == "__main__":
    main()
