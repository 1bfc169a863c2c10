"""The cost model (`training.cost`) against memory and seconds of a step, measured on this CPU.

    python benchmarks/plan_check.py [--steps 3] [--output benchmarks/results/plan.json]

Four trainings of random-weights Qwen3 models of two sizes, each in a process of its own on one
thread: SFT, SFT with 8-bit AdamW, DPO and GRPO with its sampling. Seconds are of the processor
(`time.process_time`), which other work on the machine disturbs less than the clock. Memory is the
peak of the process above what it held with the model loaded.

The shares of the measured rates that training and decoding reach are fitted on the smaller model
(SFT and GRPO); every other number is a prediction. Errors are printed as they are.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
from gpu_model import Sizes, random_groups
from gpu_parts import Counted, SampledGroups
from machine import describe
from transformers import Qwen3Config, Qwen3ForCausalLM

from posttrain.config import Component
from posttrain.models.language_model import LanguageModel
from posttrain.sources.rows import DataSource
from posttrain.training.cost import Layout, Workload, predict
from posttrain.training.devices import Device
from posttrain.training.loop import State, train
from posttrain.training.objective import Objective
from posttrain.training.optim import Optimizer
from posttrain.training.shapes import Shape
from posttrain.training.update_rules import UpdateRule

MODELS = {
    "small": Shape(4, 256, 768, 4, 2, 64, 4096, True, True),
    "large": Shape(8, 512, 1536, 8, 4, 64, 8192, True, True),
}
KINDS = ("sft", "sft_8bit", "dpo", "grpo")
SIZES = Sizes(rows=8, prompt=64, completion=64, group=4, micro_tokens=1024)


def build(shape: Shape) -> LanguageModel:
    """Random weights of a shape, in float32."""
    config = Qwen3Config(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=4096,
    )  # type: ignore[call-arg]
    torch.manual_seed(0)
    hf = Qwen3ForCausalLM(config)
    hf.generation_config.eos_token_id = None  # type: ignore[union-attr]
    model = LanguageModel(hf, None)  # type: ignore[arg-type]
    model.share_trunks()
    return model


def run_case(name: str, kind: str, steps: int) -> dict[str, Any]:
    """Train in this process; seconds of a step, memory, and what a step held."""
    torch.set_num_threads(1)
    shape, method = MODELS[name], kind.partition("_")[0]
    model = build(shape)
    if method == "grpo":
        source = Counted(SampledGroups(model, SIZES))
        losses = [Component("clipped")]
    else:
        groups = random_groups(method, SIZES, shape.vocab, steps + 1)
        whole: Any = "tree" if method == "dpo" else None
        source = Counted(DataSource(groups, batch_size=SIZES.rows, seed=0, whole=whole))
        losses = [Component("dpo" if method == "dpo" else "nll")]
    if method == "dpo":
        model.enable_reference()
    roles = ("chosen", "rejected") if method == "dpo" else ()
    objective = Objective(losses, roles=roles, groups=method == "grpo")
    optimizer = Optimizer(
        model.trainable_parameters(),
        steps=steps + 1,
        learning_rate=1e-6,
        rule=UpdateRule("adamw_8bit" if kind == "sft_8bit" else "adamw"),
    )
    before, ends = _peak(reset=True), []

    def tick(step: int, metrics: dict[str, float]) -> None:
        ends.append(time.process_time())

    train(
        model,
        source,
        objective,
        optimizer,
        [tick],
        State(),
        steps=steps + 1,
        max_tokens=SIZES.micro_tokens,
    )
    took = [b - a for a, b in itertools.pairwise(ends)]
    counts = [statistics.mean(c[i] for c in source.counts[1:]) for i in range(3)]
    return {
        "seconds": statistics.median(took),
        "memory": _peak() - before,
        "tokens": counts[0],
        "unshared": counts[1],
        "targets": counts[2],
    }


def _peak(*, reset: bool = False) -> float:
    """Bytes of the largest resident memory since the last reset. After one it is what is held now.

    Linux alone can reset it; elsewhere the peak is that of the whole process.
    """
    status, refs = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
    if reset:
        refs.write_text("5")
    fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    return float(fields["VmHWM"].split()[0]) * 1024


def workload(kind: str, measured: dict[str, Any]) -> Workload:
    """What a step of a case did."""
    method = kind.partition("_")[0]
    rows = {"sft": SIZES.rows, "dpo": 2 * SIZES.rows}.get(method, SIZES.rows * SIZES.group)
    work = Workload(
        measured["tokens"],
        measured["targets"],
        measured["unshared"] / rows / 2,
        micro_tokens=SIZES.micro_tokens,
        extra_passes=int(method == "dpo"),
        frozen=int(method == "dpo"),
    )
    if method != "grpo":
        return work
    return dataclasses.replace(
        work,
        sampled_rows=rows,
        prompt_tokens=SIZES.prompt,
        completion_tokens=SIZES.completion,
        group=SIZES.group,
    )


def layout(kind: str) -> Layout:
    """One device with float32 weights."""
    return Layout(optimizer="adamw_8bit" if kind == "sft_8bit" else "adamw", weight_bytes=4)


def rates() -> tuple[float, float]:
    """Operations per second of a float32 product, and bytes per second of a copy, of one thread."""
    torch.set_num_threads(1)
    a, block = torch.randn(1024, 1024), torch.zeros(1 << 27, dtype=torch.uint8)
    other = torch.empty_like(block)
    return _best(lambda: a @ a, 2 * 1024**3), _best(lambda: other.copy_(block), 2 * len(block))


def _best(work: Callable[[], Any], amount: float) -> float:
    work()
    found = []
    for _ in range(5):
        started = time.process_time()
        work()
        found.append(amount / max(time.process_time() - started, 1e-9))
    return max(found)


def fitted(device: Device, cases: dict[str, dict[str, Any]]) -> Device:
    """The device with the shares that the smaller model reaches."""
    shape, sft, grpo = MODELS["small"], cases["small sft"], cases["small grpo"]
    device = dataclasses.replace(device, share_of_rate=1.0, share_of_bandwidth=1.0, start_seconds=0)
    at_best = predict(shape, workload("sft", sft), layout("sft"), device)
    share = at_best.step_seconds / sft["seconds"]
    device = dataclasses.replace(device, share_of_rate=share, share_of_bandwidth=min(share, 1.0))
    rest = predict(shape, workload("grpo", grpo), layout("grpo"), device).step_seconds
    left = max(grpo["seconds"] - rest, 0.0)
    return dataclasses.replace(device, start_seconds=left / SIZES.completion / shape.layers)


def compared(cases: dict[str, dict[str, Any]], device: Device) -> dict[str, dict[str, float]]:
    """Measured and predicted seconds and memory, and predicted over measured."""
    rows = {}
    for name, measured in cases.items():
        size, _, kind = name.partition(" ")
        shape = MODELS[size]
        cost = predict(shape, workload(kind, measured), layout(kind), device)
        held = cost.peak - shape.parameters * 4 * (1 + workload(kind, measured).frozen)
        rows[name] = {
            "seconds": measured["seconds"],
            "predicted_seconds": cost.step_seconds,
            "seconds_ratio": cost.step_seconds / measured["seconds"],
            "memory_mib": measured["memory"] / 2**20,
            "predicted_memory_mib": held / 2**20,
            "memory_ratio": held / max(measured["memory"], 1.0),
        }
    return rows


def table(rows: dict[str, dict[str, float]]) -> str:
    """The comparison as Markdown."""
    lines = [
        "| training | s | predicted | ratio | MiB above the model | predicted | ratio |",
        "| --- |" + " --- |" * 6,
    ]
    for name, row in rows.items():
        seconds = f"{row['seconds']:.2f} | {row['predicted_seconds']:.2f}"
        memory = f"{row['memory_mib']:.0f} | {row['predicted_memory_mib']:.0f}"
        ratios = row["seconds_ratio"], row["memory_ratio"]
        lines.append(f"| {name} | {seconds} | {ratios[0]:.2f} | {memory} | {ratios[1]:.2f} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure every case, compare, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--output", default=str(Path(__file__).parent / "results" / "plan.json"))
    parser.add_argument("--case", default="", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.case:
        name, _, kind = options.case.partition(" ")
        print(json.dumps(run_case(name, kind, options.steps)))
        return {}
    rate, bandwidth = rates()
    cases = {}
    for name in MODELS:
        for kind in KINDS:
            command = [sys.executable, __file__, "--case", f"{name} {kind}"]
            command += ["--steps", str(options.steps)]
            ran = subprocess.run(command, check=True, capture_output=True, text=True)
            cases[f"{name} {kind}"] = json.loads(ran.stdout.splitlines()[-1])
    device = Device("one thread of this CPU", rate, bandwidth, math.inf, half=False)
    device = fitted(device, cases)
    rows = compared(cases, device)
    print(table(rows))
    told = {
        "date": str(date.today()),
        "machine": describe(),
        "rate_gflops": rate / 1e9,
        "bandwidth_gb": bandwidth / 1e9,
        "share_of_rate": device.share_of_rate,
        "start_microseconds": 1e6 * device.start_seconds,
        "cases": rows,
    }
    Path(options.output).write_text(json.dumps(told, indent=1) + "\n")
    return told


if __name__ == "__main__":
    main()
