"""Cost of shared prompts: 16 completions over a long prompt, as a forest and with the prompt
repeated.

    .venv/bin/python benchmarks/forest_cost.py [--pairs 3] [--prompts 1000,4000]

Both ways run at the default budget of a micro-batch (2,048 tokens on a CPU), at one that holds the
prompt and one completion ("tight"), and at one that holds the whole step. "trunk again" is the
forest at the tight budget without `Batch.split(share_trunks=True)`: parts of a tree compute its
trunk again. Each measurement runs in a process of its own (peak memory is a property of a process),
in turn; medians over the rounds are printed. Memory is the peak above what the process held before
the step. Sampling repeats the prompt by `generate` of transformers.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import machine

COMPLETION, GROUP, VOCAB = 64, 16, 8192
BUDGET = 2048
"""Distinct tokens of a micro-batch on a CPU, if a recipe does not say otherwise."""
WAYS = [
    "forest",
    "repeated",
    "forest tight",
    "repeated tight",
    "trunk again",
    "forest whole",
    "repeated whole",
]


def measure(way: str, length: int) -> dict[str, float]:
    """One training step (forward, backward) and one sampling of the group over a prompt of
    `length`, in this process.
    """
    import numpy as np
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from posttrain.data.forest import Batch, TokenSequence, Tree
    from posttrain.engines.torch import TorchEngine
    from posttrain.models.language_model import LanguageModel
    from posttrain.types import Request, Sampling

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCAB,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    )
    model = LanguageModel(Qwen3ForCausalLM(config), None)  # type: ignore[arg-type]
    model.hf.generation_config.eos_token_id = None
    model.share_trunks()
    draw = np.random.default_rng(0)
    prompt = draw.integers(0, VOCAB, length)
    mask = np.arange(length + COMPLETION) >= length
    rows = [
        TokenSequence(np.concatenate([prompt, draw.integers(0, VOCAB, COMPLETION)]), mask)
        for _ in range(GROUP)
    ]
    shared, keeps = not way.startswith("repeated"), way.startswith("forest")
    budgets = {"whole": None, "tight": length + COMPLETION, "again": length + COMPLETION}
    budget = budgets.get(way.rpartition(" ")[2], BUDGET)
    batch = Batch([Tree.build(rows)]) if shared else Batch([Tree.build([r]) for r in rows])

    micros = batch.split(budget, share_trunks=keeps)
    kept = {id(m.trunk.key): m.trunk.count for m in micros if m.trunk is not None}
    repeated = sum(m.trunk.count for m in micros if m.trunk is not None)
    computed = sum(m.num_tokens for m in micros) - repeated + sum(kept.values())

    def step() -> None:
        for micro in batch.split(budget, share_trunks=keeps):
            model.backward(-model.forward(micro)["logprobs"].sum(), micro)
        model.hf.zero_grad()

    warm = Batch([Tree.build(rows[:1])])
    for micro in warm.split(None):
        (-model.forward(micro)["logprobs"].sum()).backward()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    step()
    figures = {
        "tokens": computed,
        "train_seconds": time.perf_counter() - started,
        "train_peak_mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024,
    }
    if budget != BUDGET:
        return figures  # the budget is one of training
    engine = TorchEngine(model)
    ids = tuple(int(i) for i in prompt)
    sampling = Sampling(max_tokens=COMPLETION)
    started = time.perf_counter()
    if shared:
        engine.generate([Request(ids, sampling, n=GROUP)])
    else:
        model.hf.generate(
            torch.tensor([ids]),
            do_sample=True,
            num_return_sequences=GROUP,
            max_new_tokens=COMPLETION,
            pad_token_id=0,
        )
    return {**figures, "sample_seconds": time.perf_counter() - started}


def main() -> None:
    """Run the ways in turn and print the medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--prompts", default="1000,4000", help="lengths of the prompt, by comma")
    parser.add_argument("--only", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    lengths = [int(length) for length in options.prompts.split(",")]
    if options.only:
        print(json.dumps(measure(options.only, lengths[0])))
        return
    result = {
        "date": str(date.today()),
        "command": "benchmarks/forest_cost.py",
        "machine": machine.describe(),
    }
    result["prompts"] = {length: compare(length, options.pairs) for length in lengths}
    target = Path(__file__).parent / "results" / f"forest_cost-{date.today()}.json"
    target.write_text(json.dumps(result, indent=1) + "\n")
    print(f"\nwritten to {target}")


def compare(length: int, pairs: int) -> dict[str, list[dict[str, float]]]:
    """All rounds of a prompt's length."""
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(pairs):
        for way, found in runs.items():
            command = [sys.executable, __file__, "--only", way, "--prompts", str(length)]
            process = subprocess.run(command, capture_output=True, text=True, check=True)
            found.append(json.loads(process.stdout.strip().split("\n")[-1]))
    print(
        f"\n{GROUP} completions of {COMPLETION} tokens, one prompt of {length} tokens, medians of "
        f"{pairs} rounds"
    )
    print(f"{'':<16}" + "".join(f"{way:>16}" for way in WAYS))
    for name in runs["forest"][0]:
        cells = [
            f"{statistics.median(r[name] for r in rows):.2f}" if name in rows[0] else ""
            for rows in runs.values()
        ]
        print(f"{name:<16}" + "".join(f"{cell:>16}" for cell in cells), flush=True)
    return runs


if __name__ == "__main__":
    main()
