"""Training and decoding of random-weights Qwen3 models on one GPU, against what the machine can do.

    .venv/bin/python benchmarks/gpu.py [--shape 0.6b,1.7b] [--only sft,dpo,grpo,decode] [--steps 5]
    .venv/bin/python benchmarks/gpu.py --tiny --device cpu      # the same code at toy size

Needs no network and no files: the model is made from its config and rows are random tokens. Told
are tokens a second (distinct, and counted as unshared rows), peak memory, the share of the measured
rate of large matrix products for training (2 operations a weight and token forward, 4 backward, the
head only where there is a target, attention left out), and for decoding the time of a step over the
time that reading the weights and all keys and values takes at the measured bandwidth.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from posttrain.averages import Averages
from posttrain.config import Component
from posttrain.data.forest import Batch, TokenSequence, Tree
from posttrain.engines.torch import TorchEngine
from posttrain.models.language_model import LanguageModel
from posttrain.sources.rows import DataSource
from posttrain.training.loop import State, train
from posttrain.training.objective import Objective
from posttrain.training.optim import Optimizer
from posttrain.types import Request, Sampling

SHAPES: dict[str, dict[str, int]] = {
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "head_dim": 16,
    },
    "0.6b": {
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
    },
    "1.7b": {
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
    },
}


@dataclass(frozen=True)
class Sizes:
    """rows: of an SFT step, pairs of a DPO step, prompts of a GRPO step, all of `prompt` tokens;
    completions are exponential with mean and limit `completion` and four times that, and for GRPO
    `completion` long in groups of `group`."""

    rows: int = 64
    prompt: int = 128
    completion: int = 256
    group: int = 8
    decode_rows: int = 256
    micro_tokens: int = 16384


def make_model(shape: str, device: str) -> LanguageModel:
    """Random weights, bfloat16 on a GPU and float32 on a CPU."""
    sizes = {
        "num_key_value_heads": SHAPES[shape]["num_attention_heads"] // 2,
        "head_dim": 128,
        **SHAPES[shape],
    }
    vocab = 512 if shape == "tiny" else 151936
    config = Qwen3Config(
        vocab_size=vocab, tie_word_embeddings=True, max_position_embeddings=4096, **sizes
    )  # type: ignore[arg-type]
    torch.manual_seed(0)
    with torch.device(device):
        hf = Qwen3ForCausalLM(config).to(torch.bfloat16 if device == "cuda" else torch.float32)
    hf.generation_config.eos_token_id = None
    model = LanguageModel(hf, None)  # type: ignore[arg-type]
    model.share_trunks()
    if not model.shares_trunks:
        raise SystemExit(f"the model does not run as a forest: {model.why_unshared}")
    return model


def random_groups(kind: str, sizes: Sizes, vocab: int, steps: int) -> list[list[TokenSequence]]:
    """Rows of SFT (groups of one) or pairs of DPO."""
    draw = np.random.default_rng(0)
    groups = []
    for _ in range(sizes.rows * steps):
        prompt = draw.integers(0, vocab, sizes.prompt)
        group = []
        for _ in range(2 if kind == "dpo" else 1):
            length = int(np.clip(draw.exponential(sizes.completion), 1, 4 * sizes.completion))
            ids = np.concatenate([prompt, draw.integers(0, vocab, length)])
            group.append(TokenSequence(ids, np.arange(len(ids)) >= sizes.prompt))
        groups.append(group)
    return groups


class SampledGroups:
    """A source of GRPO's batches: the engine's completions of random prompts with random
    advantages.
    """

    def __init__(self, model: LanguageModel, sizes: Sizes) -> None:
        self.engine, self.sizes, self.vocab = TorchEngine(model), sizes, model.config.vocab_size

    def batches(self, step: int) -> Iterator[Batch]:
        draw = np.random.default_rng(step)
        prompts = [
            tuple(draw.integers(0, self.vocab, self.sizes.prompt).tolist())
            for _ in range(self.sizes.rows)
        ]
        sampling = Sampling(max_tokens=self.sizes.completion)
        found = self.engine.generate(
            [Request(p, sampling, n=self.sizes.group, seed=step) for p in prompts]
        )
        trees = []
        for prompt, samples in zip(prompts, found, strict=True):
            sequences = []
            for sample in samples:
                ids = np.array([*prompt, *sample.ids])
                advantages = np.full(len(ids), draw.standard_normal(), dtype=np.float32)
                sequences.append(
                    TokenSequence(
                        ids, np.arange(len(ids)) >= len(prompt), {"advantages": advantages}
                    )
                )
            trees.append(Tree.build(sequences))
        yield Batch(trees)

    def updated(self, model: Any) -> None:
        model.weights_version += 1
        self.engine.sync(model.weights_version)

    def metrics(self) -> Averages:
        return Averages()


class Counted:
    """A source that also counts the tokens, rows' tokens and targets of each step."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.counts = inner, []  # type: ignore[var-annotated]

    def batches(self, step: int) -> Iterator[Batch]:
        for batch in self.inner.batches(step):
            self.counts.append((batch.num_tokens, batch.num_unshared_tokens, batch.num_targets))
            yield batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def measure_training(kind: str, model: LanguageModel, sizes: Sizes, steps: int) -> dict[str, float]:
    """Median step of a run, after one that warms up; the engine's sampling is part of a GRPO
    step.
    """
    if kind == "grpo":
        source, losses = Counted(SampledGroups(model, sizes)), [Component("clipped")]
    else:
        groups = random_groups(kind, sizes, model.config.vocab_size, steps + 1)
        whole: Any = "tree" if kind == "dpo" else None
        source = Counted(DataSource(groups, batch_size=sizes.rows, seed=0, whole=whole))
        losses = [Component("dpo" if kind == "dpo" else "nll")]
    if kind == "dpo":
        model.enable_reference()
    objective = Objective(
        losses, roles=("chosen", "rejected") if kind == "dpo" else (), groups=kind == "grpo"
    )
    optimizer = Optimizer(model.trainable_parameters(), steps=steps + 1, learning_rate=1e-6)
    ends: list[float] = []

    def tick(step: int, metrics: dict[str, float]) -> None:
        synchronise(model.device)
        ends.append(time.perf_counter())

    train(
        model,
        source,
        objective,
        optimizer,
        [tick],
        State(),
        steps=steps + 1,
        max_tokens=sizes.micro_tokens,
    )
    seconds = statistics.median(b - a for a, b in itertools.pairwise(ends))
    distinct, unshared, targets = (
        statistics.mean(c[i] for c in source.counts[1:]) for i in range(3)
    )
    body, head = arithmetic(model)
    passes = 8 if kind in ("dpo", "grpo") else 6  # the reference's forward pass; the engine's
    return {
        "seconds": seconds,
        "distinct_tokens_per_second": distinct / seconds,
        "unshared_tokens_per_second": unshared / seconds,
        "gflops": passes * (distinct * body + targets * head) / 1e9 / seconds,
    }


def measure_decode(model: LanguageModel, sizes: Sizes, bandwidth: float) -> dict[str, float]:
    """A decode step at `decode_rows` samples of one prompt: whole generation less its first token,
    by its steps. On a GPU with recorded steps (how many: `graphs_recorded`; 0 where they cannot be)
    and without."""
    engine = TorchEngine(model, max_rows=sizes.decode_rows)
    prompt = tuple(range(1, sizes.prompt + 1))

    def seconds(tokens: int) -> float:
        synchronise(model.device)
        started = time.perf_counter()
        engine.generate([Request(prompt, Sampling(max_tokens=tokens), n=sizes.decode_rows)])
        synchronise(model.device)
        return time.perf_counter() - started

    def step_seconds() -> float:
        seconds(4)
        return (seconds(sizes.completion) - seconds(1)) / (sizes.completion - 1)

    step = step_seconds()
    beside: dict[str, float] = {}
    if engine.graphs is not None:
        beside["graphs_recorded"] = engine.graphs.recorded
        if engine.graphs.why_not:
            print(f"steps are not recorded: {engine.graphs.why_not}")
        engine.graphs = None
        beside["step_milliseconds_without_graphs"] = 1e3 * step_seconds()
    weights = sum(p.numel() * p.element_size() for p in model.hf.parameters())
    own = (
        sizes.decode_rows * (sizes.completion - 1) / 2
    )  # tokens of which keys and values are read, on average over steps
    read = weights + engine._bytes_per_token * (sizes.prompt + own)
    return {
        "step_milliseconds": 1e3 * step,
        "tokens_per_second": sizes.decode_rows / step,
        "times_memory_limit": step / (read / 1e9 / bandwidth),
        **beside,
    }


def arithmetic(model: LanguageModel) -> tuple[int, int]:
    """Weights that every token meets, and those of the vocabulary projection."""
    head = model.head.weight.numel()
    return sum(p.numel() for p in model.hf.parameters() if p.ndim == 2) - head, head


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def best_rate(work: Callable[[], Any], amount: float, device: torch.device) -> float:
    """amount / seconds of the fastest of five runs."""
    work()
    found = []
    for _ in range(5):
        synchronise(device)
        started = time.perf_counter()
        work()
        synchronise(device)
        found.append(amount / (time.perf_counter() - started))
    return max(found)


def peak_mib(device: torch.device) -> float:
    """Most memory held on the device; of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def limits(device: torch.device, tiny: bool) -> tuple[float, float]:
    """GFLOP/s of large matrix products in the models' precision, and GB/s of a copy (bytes read
    and written).
    """
    size = 256 if tiny else 8192
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    a = torch.randn(size, size, device=device, dtype=dtype)
    block = torch.zeros(1 << (20 if tiny else 30), dtype=torch.uint8, device=device)
    other = torch.empty_like(block)
    return best_rate(lambda: a @ a, 2 * size**3 / 1e9, device), best_rate(
        lambda: other.copy_(block), 2 * len(block) / 1e9, device
    )


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure, print, and write results/gpu-DATE.json (not for --tiny)."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", default="0.6b,1.7b")
    parser.add_argument("--only", default="sft,dpo,grpo,decode")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--tiny", action="store_true", help="a toy model and few short rows")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device; --tiny --device cpu runs the same code at toy size")
    device = torch.device(options.device)
    sizes = Sizes(2, 8, 6, 2, 4, 64) if options.tiny else Sizes()
    matmul, bandwidth = limits(device, options.tiny)
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.machine()
    print(f"{name}: matrix products {matmul:.0f} GFLOP/s, memory {bandwidth:.0f} GB/s")
    results: dict[str, Any] = {}
    for shape in ["tiny"] if options.tiny else options.shape.split(","):
        for kind in options.only.split(","):
            if device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            model = make_model(shape, options.device)
            if kind == "decode":
                found = measure_decode(model, sizes, bandwidth)
            else:
                found = measure_training(kind, model, sizes, options.steps)
                found["share_of_matmul"] = found["gflops"] / matmul
            found["peak_mib"] = peak_mib(device)
            results[f"{shape} {kind}"] = found
            print(
                f"{shape} {kind:<8}" + "  ".join(f"{k} {v:.4g}" for k, v in found.items()),
                flush=True,
            )
            del model
    told = {
        "date": str(date.today()),
        "device": name,
        "torch": torch.__version__,
        "matmul_gflops": matmul,
    }
    told |= {"bandwidth_gb": bandwidth, "results": results}
    if not options.tiny:
        target = Path(__file__).parent / "results" / f"gpu-{date.today()}.json"
        target.write_text(json.dumps(told, indent=1) + "\n")
    return told


if __name__ == "__main__":
    main()
