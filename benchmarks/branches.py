"""A step search of many branches over one trunk: what a prefix tree saves.

    .venv/bin/python benchmarks/branches.py [--branches 64] [--trunk 512] [--rounds 8] [--pairs 3]

A search writes a step of 16 tokens for each of 64 branches, then asks for the next step of all of
them, for 8 rounds. Each branch is a prompt of its own: the trunk of 512 tokens and its text so far.
Three samplers get the same prompts, and each continues its own texts at temperature 1:

    tree         the embedded engine
    no tree      the embedded engine, which forgets all between two rounds (max_prefix_bytes = 0). A
                 round still computes once what its prompts share.
    every prefix `generate` of transformers on the same weights, a batch of 64 whole prompts a round

Throughput is sampled tokens per second. Ratios are medians over pairs in which all three run in
turn. Prints one line of JSON; `cpu` are ratios of the process's own CPU seconds, which other work
on the machine does not move.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from machine import describe

Ids = tuple[int, ...]
Write = Callable[[list[Ids], int, int], list[Ids]]
"""Texts, the tokens of a step, a seed -> each text with its step."""

VOCABULARY = 2000


def model_of(layers: int = 4, width: int = 256) -> Any:
    """Qwen3 shape, random weights, float32, no token that ends a text."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from posttrain.models.language_model import LanguageModel

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=width // 8,
        max_position_embeddings=4096,
        eos_token_id=None,
    )
    hf = Qwen3ForCausalLM(config).eval()
    hf.generation_config.eos_token_id = None
    model = LanguageModel(hf, None)  # type: ignore[arg-type]
    model.share_trunks()
    return model


def engine_writes(model: Any, **settings: Any) -> tuple[Write, Any]:
    """Steps by the embedded engine, which lives for one search."""
    from posttrain.engines.torch import TorchEngine
    from posttrain.types import Request, Sampling

    engine = TorchEngine(model, **settings)

    def write(texts: list[Ids], length: int, seed: int) -> list[Ids]:
        sampling = Sampling(max_tokens=length)
        requests = [Request(ids, sampling, seed=seed * 1000 + i) for i, ids in enumerate(texts)]
        groups = engine.generate(requests)
        return [(*ids, *group[0].ids) for ids, group in zip(texts, groups, strict=True)]

    return write, engine.stats


def plain_writes(model: Any) -> Write:
    """Steps by `generate` of transformers: all texts are equally long, so that none is padded."""

    def write(texts: list[Ids], length: int, seed: int) -> list[Ids]:
        torch.manual_seed(seed)
        batch = torch.tensor(texts)
        with torch.inference_mode():
            whole = model.hf.generate(
                batch,
                attention_mask=torch.ones_like(batch),
                max_new_tokens=length,
                do_sample=True,
                top_k=0,
                pad_token_id=0,
            )
        return [tuple(row) for row in whole.tolist()]

    return write


def search(write: Write, trunk: Ids, branches: int, rounds: int, length: int) -> dict[str, float]:
    """Wall-clock and CPU seconds of a search; every branch begins with a token of its own."""
    texts = [(*trunk, i) for i in range(branches)]
    started, started_cpu = time.perf_counter(), time.process_time()
    for number in range(rounds):
        texts = write(texts, length, number)
    assert {len(text) for text in texts} == {len(trunk) + 1 + rounds * length}
    return {"clock": time.perf_counter() - started, "cpu": time.process_time() - started_cpu}


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, value in {
        "branches": 64,
        "trunk": 512,
        "rounds": 8,
        "length": 16,
        "pairs": 3,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--width", type=int, default=256)
    options = parser.parse_args(arguments)
    model = model_of(width=options.width)
    draw = random.Random(0)
    seconds: dict[str, list[dict[str, float]]] = {"tree": [], "no tree": [], "every prefix": []}
    computed: dict[str, int] = {}
    for _ in range(options.pairs):
        trunk = tuple(draw.randrange(VOCABULARY) for _ in range(options.trunk))
        for name, found in seconds.items():
            if name == "every prefix":
                write, stats = plain_writes(model), None
            else:
                write, stats = engine_writes(
                    model, **{} if name == "tree" else {"max_prefix_bytes": 0}
                )
            found.append(search(write, trunk, options.branches, options.rounds, options.length))
            if stats is not None:
                computed[name] = stats.computed_tokens
    tokens = options.branches * options.rounds * options.length
    result: dict[str, Any] = {
        "machine": describe()["processor"],
        "prompt_tokens_computed": computed,
    }
    for name, found in seconds.items():
        rate = tokens / statistics.median(run["clock"] for run in found)
        result[name] = {"tokens_per_second": round(rate)}
        for unit in ("clock", "cpu"):
            ratios = [b[unit] / a[unit] for a, b in zip(seconds["tree"], found, strict=True)]
            result[name][f"{unit}_ratio"] = round(statistics.median(ratios), 2)
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    main()
