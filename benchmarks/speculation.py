"""Speculative decoding of one stream beside plain decoding, on the embedded engine.

    .venv/bin/python benchmarks/speculation.py [--pairs 3] [--tokens 128] [--width 512]
        [--layers 12]

The model has the shape of Qwen3 and random weights in float32. Its text is no language, so that
two cases stand in for what a draft may know:

    lookup   PromptLookup drafts from the text, which repeats itself
    draft    The layers above the first write into the hidden states with a weight of `--above`, so
             that a draft model of the first layer is often right. It has the same embeddings.

Text is greedy: at temperature 1 that of random weights is noise, which no draft meets. Both write
the same samples as plain decoding up to rounding. Ratios are medians over pairs: plain seconds by
speculative seconds. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import statistics
import time
from typing import Any

import torch
from branches import VOCABULARY, model_of
from machine import describe


def weakened(model: Any, first: int, weight: float) -> Any:
    """Scale what the layers from `first` on add; a draft model of those before."""
    from posttrain.models.language_model import LanguageModel

    with torch.no_grad():
        for layer in model.hf.model.layers[first:]:
            layer.self_attn.o_proj.weight.mul_(weight)
            layer.mlp.down_proj.weight.mul_(weight)
    hf = copy.deepcopy(model.hf)
    hf.model.layers = hf.model.layers[:first]
    hf.config.num_hidden_layers = hf.model.config.num_hidden_layers = first
    draft = LanguageModel(hf, None)  # type: ignore[arg-type]
    draft.share_trunks()
    return draft


def run(model: Any, request: Any, speculation: Any = None) -> dict[str, float]:
    """CPU and clock seconds of one request in a new engine."""
    from posttrain.engines.torch import TorchEngine

    engine = TorchEngine(model, speculation=speculation)
    started, started_cpu = time.perf_counter(), time.process_time()
    ((sample,),) = engine.generate([request])
    assert len(sample.ids) == request.sampling.max_tokens
    return {"clock": time.perf_counter() - started, "cpu": time.process_time() - started_cpu}


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    from posttrain.engines.draft_model import DraftModel
    from posttrain.engines.drafts import PromptLookup
    from posttrain.engines.speculation import Speculation
    from posttrain.types import Request, Sampling

    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    defaults = {"pairs": 3, "tokens": 128, "prompt": 64, "width": 512, "layers": 12, "draft": 4}
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--above", type=float, default=0.01)
    options = parser.parse_args(arguments)
    model = model_of(options.layers, options.width)
    draw = random.Random(0)
    cases: dict[str, Any] = {
        "lookup": PromptLookup,
        "draft": lambda: DraftModel(weakened(model, 1, options.above)),
    }
    result: dict[str, Any] = {
        "machine": describe()["processor"],
        "parameters": sum(p.numel() for p in model.hf.parameters()),
    }
    for name, drafter in cases.items():  # in this order: the second changes the model
        speculation = Speculation(drafter(), num_tokens=options.draft)
        seconds: list[tuple[dict[str, float], dict[str, float]]] = []
        for seed in range(options.pairs):
            ids = tuple(draw.randrange(VOCABULARY) for _ in range(options.prompt))
            sampling = Sampling(max_tokens=options.tokens, temperature=0.0)
            request = Request(ids, sampling, seed=seed)
            seconds.append((run(model, request), run(model, request, speculation)))
        written = options.pairs * options.tokens
        result[name] = {
            "accepted": round(speculation.num_accepted / max(speculation.num_drafted, 1), 2),
            "tokens_per_pass": round(written / (speculation.num_passes + options.pairs), 2),
        }
        for unit in ("clock", "cpu"):
            ratios = [plain[unit] / ours[unit] for plain, ours in seconds]
            result[name][f"{unit}_ratio"] = round(statistics.median(ratios), 2)
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    main()
