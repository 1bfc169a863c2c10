"""What the GPU benchmark measures of posttrain: training, decoding, and shared prefixes."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from gpu_model import Sizes, arithmetic, random_groups, synchronise

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

Report = Callable[[str, dict[str, float]], None]
"""Takes a figure's name and its numbers as soon as they are known."""


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


def measure_decode(model: LanguageModel, sizes: Sizes, bandwidth: float, report: Report) -> None:
    """Decode steps of 1 to 256 samples of one prompt: a whole generation less its first token, by
    its steps, with recorded steps and without. `times_memory_limit` is a step's time over that of
    reading the weights and all keys and values once at the measured bandwidth (GB/s).
    """
    prompt = tuple(range(1, sizes.prompt + 1))
    for rows in sizes.decode_rows:
        for graphs in ("auto", None):
            engine = TorchEngine(model, max_rows=rows, graphs=graphs)  # type: ignore[arg-type]
            if graphs == "auto" and engine.graphs is None:
                continue  # not on CUDA
            seconds = _seconds_of(engine, prompt, rows, sizes)
            own = (sizes.decode_tokens - 1) / 2  # tokens of a row that are read, on average
            tokens = sizes.prompt + rows * own
            read = model_bytes(model) + engine._bytes_per_token * tokens
            figures = {
                "step_milliseconds": 1e3 * seconds,
                "tokens_per_second": rows / seconds,
                "times_memory_limit": seconds / (read / 1e9 / bandwidth),
            }
            if engine.graphs is not None:
                figures |= {
                    "graphs_recorded": engine.graphs.recorded,
                    "steps_replayed": engine.graphs.replayed,
                }
            name = f"{rows} rows, graphs {'on' if engine.graphs is not None else 'off'}"
            report(name, figures)


def model_bytes(model: LanguageModel) -> int:
    """Bytes of the weights, which a step reads once."""
    return sum(p.numel() * p.element_size() for p in model.hf.parameters())


def _seconds_of(engine: TorchEngine, prompt: tuple[int, ...], rows: int, sizes: Sizes) -> float:
    """Of a decode step, the mean over a generation."""

    def seconds(tokens: int) -> float:
        synchronise(engine.model.device)
        started = time.perf_counter()
        request = Request(prompt, Sampling(max_tokens=tokens), n=rows, reuse=False)
        engine.generate([request])
        synchronise(engine.model.device)
        return time.perf_counter() - started

    seconds(min(8, sizes.decode_tokens))
    whole, first = seconds(sizes.decode_tokens), seconds(1)
    return max(whole - first, 1e-9) / (sizes.decode_tokens - 1)


def measure_prefixes(model: LanguageModel, sizes: Sizes, report: Report) -> None:
    """Conversations of several turns below one long beginning, and a search that goes on from its
    best of four branches: with prefixes that are kept and without. Both sample the same tokens.
    """
    trunk = tuple(int(i) for i in np.random.default_rng(0).integers(1, 500, sizes.trunk))
    for kind, branches in (("turns", 1), ("search", 4)):
        took = {}
        for reuse in (True, False):
            engine = TorchEngine(model)
            texts = [(*trunk, number) for number in range(sizes.conversations)]
            synchronise(model.device)
            started = time.perf_counter()
            for turn in range(sizes.turns):
                sampling = Sampling(max_tokens=sizes.decode_tokens)
                requests = [
                    Request(text, sampling, n=branches, seed=turn, reuse=reuse) for text in texts
                ]
                groups = engine.generate(requests)
                texts = [
                    (*text, *group[0].ids, turn) for text, group in zip(texts, groups, strict=True)
                ]
            synchronise(model.device)
            took[reuse] = time.perf_counter() - started
            share = engine.stats.reused_tokens / max(engine.stats.prompt_tokens, 1)
            rate = engine.stats.generated_tokens / took[reuse]
            figures = {"seconds": took[reuse], "tokens_per_second": rate, "reused_share": share}
            report(f"{kind}, prefixes {'kept' if reuse else 'not kept'}", figures)


def training_part(
    kind: str, model: LanguageModel, sizes: Sizes, steps: int, matmul: float
) -> dict[str, float]:
    """The figures of a training with its share of the measured rate of matrix products."""
    figures = measure_training(kind, model, sizes, steps)
    return {**figures, "share_of_matmul": figures["gflops"] / matmul}
