"""Cost of shared prompts: 16 completions over a 1,000-token prompt, as a forest and with the prompt repeated.

    .venv/bin/python benchmarks/forest_cost.py [--pairs 5]

Each measurement runs in a process of its own (peak memory is a property of a process), A B A B, and the medians of the
pairs are told. Memory is the peak above what the process held before the step.
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
import time
from datetime import date
from pathlib import Path

PROMPT, COMPLETION, GROUP, VOCAB = 1000, 64, 16, 8192


def measure(way: str) -> dict[str, float]:
    """One training step (forward, backward) and one sampling of the group, in this process."""
    import numpy as np
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    from posttrain.data.forest import Batch, TokenSequence, Tree
    from posttrain.engines.torch import TorchEngine
    from posttrain.models.language_model import LanguageModel
    from posttrain.types import Request, Sampling

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCAB, hidden_size=256, intermediate_size=768, num_hidden_layers=6, num_attention_heads=8,
        num_key_value_heads=4, head_dim=32, max_position_embeddings=2048, tie_word_embeddings=True,
    )  # fmt: skip
    model = LanguageModel(Qwen3ForCausalLM(config), None)  # type: ignore[arg-type]
    model.hf.generation_config.eos_token_id = None
    model.share_trunks()
    draw = np.random.default_rng(0)
    prompt = draw.integers(0, VOCAB, PROMPT)
    mask = np.arange(PROMPT + COMPLETION) >= PROMPT
    rows = [TokenSequence(np.concatenate([prompt, draw.integers(0, VOCAB, COMPLETION)]), mask) for _ in range(GROUP)]
    shared = way == "forest"
    batch = Batch([Tree.build(rows)]) if shared else Batch([Tree.build([r]) for r in rows])

    def step() -> None:
        for micro in batch.split(None):
            (-model.forward(micro)["logprobs"].sum()).backward()
        model.hf.zero_grad()

    warm = Batch([Tree.build(rows[:1])])
    for micro in warm.split(None):
        (-model.forward(micro)["logprobs"].sum()).backward()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    step()
    seconds = time.perf_counter() - started
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    engine = TorchEngine(model)
    ids = tuple(int(i) for i in prompt)
    sampling = Sampling(max_tokens=COMPLETION)
    started = time.perf_counter()
    if shared:
        engine.generate([Request(ids, sampling, n=GROUP)])
    else:
        model.hf.generate(
            torch.tensor([ids]), do_sample=True, num_return_sequences=GROUP, max_new_tokens=COMPLETION, pad_token_id=0
        )
    return {
        "tokens": batch.num_tokens,
        "train_seconds": seconds,
        "train_peak_mib": memory,
        "sample_seconds": time.perf_counter() - started,
    }


def main() -> None:
    """Alternate the two ways and tell the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--only", choices=["forest", "repeated"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.only)))
        return
    runs: dict[str, list[dict[str, float]]] = {"forest": [], "repeated": []}
    for _ in range(options.pairs):
        for way, found in runs.items():
            command = [sys.executable, __file__, "--only", way]
            out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            found.append(json.loads(out.strip().split("\n")[-1]))
    names = list(runs["forest"][0])
    table = {way: {n: statistics.median(r[n] for r in found) for n in names} for way, found in runs.items()}
    ratios = {n: statistics.median(b[n] / a[n] for a, b in zip(runs["forest"], runs["repeated"], strict=True)) for n in names}
    print(f"{GROUP} completions of {COMPLETION} tokens over one prompt of {PROMPT} tokens, medians of {options.pairs} pairs\n")
    print(f"{'':<16}{'forest':>12}{'repeated':>12}{'ratio':>9}")
    for n in names:
        print(f"{n:<16}{table['forest'][n]:>12.2f}{table['repeated'][n]:>12.2f}{ratios[n]:>9.2f}")
    machine = {"python": platform.python_version(), "cores": os.cpu_count(), "machine": platform.machine()}
    result = {"date": str(date.today()), "command": "benchmarks/forest_cost.py", **machine, "medians": table, "ratios": ratios}
    target = Path(__file__).parent / "results" / f"forest_cost-{date.today()}.json"
    target.write_text(json.dumps({**result, "runs": runs}, indent=1) + "\n")
    print(f"\nwritten to {target}")


if __name__ == "__main__":
    main()
