"""Cost of a step against its distinct tokens, memory over many steps, and the time from the start
to the first step.

    .venv/bin/python benchmarks/scaling.py [--largest 65536] [--steps 1000]

The first two on a model of 0.7 million parameters, so that what is not arithmetic shows; the last
is `posttrain run` of one SFT step on the 7-million-parameter model of peer.py, in a process of its
own. Seconds are of the processor as well as of the
clock: where the machine does other work, the former are the ones to read.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from transformers import Qwen3Config, Qwen3ForCausalLM
from workloads import WORKLOADS, build

from posttrain.config import Component
from posttrain.data.forest import Batch, TokenSequence, Tree
from posttrain.kernels import setup
from posttrain.models.language_model import LanguageModel
from posttrain.sources.rows import DataSource
from posttrain.training.loop import State, train
from posttrain.training.objective import Objective
from posttrain.training.optim import Optimizer

HERE = Path(__file__).resolve().parent
VOCAB, ROW, MICRO_TOKENS = 2048, 256, 2048


def small_model() -> LanguageModel:
    """Qwen3 architecture, 2 layers of width 128, random weights."""
    config = Qwen3Config(
        vocab_size=VOCAB,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = LanguageModel(Qwen3ForCausalLM(config), None)  # type: ignore[arg-type]
    model.share_trunks()
    return model


def random_row(draw: np.random.Generator, length: int) -> TokenSequence:
    """Random tokens, all of them but the first trained."""
    return TokenSequence(draw.integers(0, VOCAB, length), np.arange(length) > 0)


def cost_of_tokens(sizes: list[int], rounds: int) -> list[dict[str, float]]:
    """Median processor seconds and seconds of a step (micro-batches, forward, backward) of rows
    of 256 tokens.
    """
    model, objective = small_model(), Objective([Component("nll")])
    draw = np.random.default_rng(0)
    found: dict[int, list[tuple[float, float]]] = {size: [] for size in sizes}
    for size in [
        sizes[0],
        *sizes * rounds,
    ]:  # the first warms up; all sizes in each round, whatever the machine does
        rows = [random_row(draw, ROW) for _ in range(size // ROW)]
        before, started = time.process_time(), time.perf_counter()
        batch = Batch([Tree.build([row]) for row in rows])
        totals = objective.denominators(batch)
        for micro in batch.split(MICRO_TOKENS):
            objective(model.forward(micro, objective.needs), micro, totals)[0].backward()
        model.hf.zero_grad()
        found[size].append((time.process_time() - before, time.perf_counter() - started))
    found[sizes[0]] = found[sizes[0]][1:]
    return [
        {
            "tokens": size,
            "cpu_seconds": statistics.median(c for c, _ in runs),
            "seconds": statistics.median(s for _, s in runs),
        }
        for size, runs in found.items()
    ]


def resident_mib() -> float:
    """Memory that this process holds now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def memory_of_steps(steps: int) -> dict[int, float]:
    """Resident MiB after each tenth of a run of small steps of ever other sizes."""
    model, objective = small_model(), Objective([Component("nll")])
    draw = np.random.default_rng(1)
    groups = [[random_row(draw, int(draw.integers(8, 96)))] for _ in range(512)]
    held: dict[int, float] = {}

    def note(step: int, metrics: dict[str, float]) -> None:
        if step % max(steps // 10, 1) == 0:
            held[step] = resident_mib()

    source = DataSource(groups, batch_size=2, seed=0)
    optimizer = Optimizer(model.trainable_parameters(), steps=steps, learning_rate=1e-4)
    train(
        model, source, objective, optimizer, [note], State(), steps=steps, max_tokens=MICRO_TOKENS
    )
    return held


def start_up(rounds: int) -> dict[str, float]:
    """From the start of the command to the first line of metrics.jsonl, the smallest of some
    runs; and its processor time.
    """
    workload = WORKLOADS["sft"]
    folder = HERE / ".work" / workload.name
    build(workload, folder)
    seconds, cpu = [], []
    for _ in range(rounds):
        place = Path(tempfile.mkdtemp())
        recipe = {
            "method": "sft",
            "model": str(folder / "model"),
            "data": str(folder / "rows.jsonl"),
            "max_steps": 1,
        }
        recipe |= {"output": str(place / "run"), "save_every": 0}
        (place / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        started = time.time()
        command = [sys.executable, "-m", "posttrain.cli", "run", str(place / "recipe.yaml")]
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append((place / "run" / "metrics.jsonl").stat().st_mtime - started)
        cpu.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return {"seconds_to_first_step": min(seconds), "cpu_seconds_of_whole_run": min(cpu)}


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure, print, and write results/scaling-DATE.json (not with --dry)."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--largest", type=int, default=65536)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dry", action="store_true", help="leave out the start-up, write nothing")
    options = parser.parse_args(arguments)
    setup()
    sizes = [1024 << i for i in range(20) if 1024 << i <= options.largest]
    costs = cost_of_tokens(sizes, options.rounds)
    for row in costs:
        print(
            f"{row['tokens']:>7} tokens  {1e6 * row['cpu_seconds'] / row['tokens']:8.1f} us of "
            "the processor a token",
            flush=True,
        )
    held = memory_of_steps(options.steps)
    print(
        "MiB held after steps: " + "  ".join(f"{step}: {mib:.1f}" for step, mib in held.items()),
        flush=True,
    )
    told: dict[str, Any] = {
        "date": str(date.today()),
        "command": "benchmarks/scaling.py",
        "machine": platform.machine(),
    }
    told |= {"threads": torch.get_num_threads(), "costs": costs, "resident_mib": held}
    if not options.dry:
        told["start_up"] = start_up(options.rounds)
        print("  ".join(f"{name} {value:.2f}" for name, value in told["start_up"].items()))
        (HERE / "results" / f"scaling-{date.today()}.json").write_text(
            json.dumps(told, indent=1) + "\n"
        )
    return told


if __name__ == "__main__":
    main()
