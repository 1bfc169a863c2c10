"""How much faster are label scores in a forest? label_scores.py [MODEL ...] [--pairs 9] [--write]

16 labels of 1 and of 4 questions behind 32 demonstrations, one thread, float32. Three ways, in turn
in each round, so that ratios are paired:

    forest    posttrain.incontext.label_scores
    plain     one forward pass of the Hugging Face model per question and label
    rows      one forward pass per question, its 16 labels as padded rows

The result is the median ratio of seconds with the smallest and largest ratio, and the largest
difference of scores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from figures import HERE
from machine import describe

import posttrain as pt
from posttrain.incontext.label_scores import label_logprobs

RESULTS = HERE / "results" / "label_scores.json"
NUM_LABELS, NUM_SHOTS, SHOT_TOKENS, TEXT_TOKENS = 16, 32, 12, 10

Ids = list[list[int]]


def problem(vocabulary: int, num_questions: int, seed: int = 0) -> tuple[Ids, Ids]:
    """Prompts below one trunk of demonstrations, and labels of one to three tokens."""
    draw = np.random.default_rng(seed)

    def ids(number: int) -> list[int]:
        return draw.integers(6, vocabulary, size=number).tolist()

    shots = ids(NUM_SHOTS * SHOT_TOKENS)
    prompts = [[*shots, *ids(TEXT_TOKENS)] for _ in range(num_questions)]
    return prompts, [ids(1 + number % 3) for number in range(NUM_LABELS)]


@torch.no_grad()
def plain(model: Any, prompts: Ids, labels: Ids) -> np.ndarray:
    """One forward pass per question and label."""
    return np.array([[_sum(model, p, [label])[0] for label in labels] for p in prompts])


@torch.no_grad()
def rows(model: Any, prompts: Ids, labels: Ids) -> np.ndarray:
    """One forward pass per question, labels as rows padded on the right."""
    return np.array([_sum(model, p, labels) for p in prompts])


def _sum(model: Any, prompt: list[int], labels: Ids) -> list[float]:
    longest = max(map(len, labels))
    padded = [[*prompt, *label, *[0] * (longest - len(label))] for label in labels]
    out = model.hf(torch.tensor(padded), logits_to_keep=longest + 1).logits.float().log_softmax(-1)
    return [
        sum(float(out[row, t, token]) for t, token in enumerate(label))
        for row, label in enumerate(labels)
    ]


def seconds(function: Callable[[], Any]) -> float:
    """Of one call."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def measure(model: Any, num_questions: int, pairs: int) -> dict[str, Any]:
    """All three ways on one model."""
    prompts, labels = problem(len(model.tokenizer), num_questions)
    ways: dict[str, Callable[[], Any]] = {
        "forest": lambda: label_logprobs(model, prompts, labels),
        "plain": lambda: plain(model, prompts, labels),
        "rows": lambda: rows(model, prompts, labels),
    }
    scores = {name: way() for name, way in ways.items()}  # and warm
    times = [{name: seconds(way) for name, way in ways.items()} for _ in range(pairs)]
    found: dict[str, Any] = {
        "seconds": {n: statistics.median(t[n] for t in times) for n in ways},
        "difference": float(abs(scores["forest"] - scores["plain"]).max()),
    }
    for name in ("plain", "rows"):
        ratios = sorted(t[name] / t["forest"] for t in times)
        found[f"{name}/forest"] = [statistics.median(ratios), ratios[0], ratios[-1]]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=["embedded"])
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for place in options.models:
        model = pt.load(place, dtype="float32", device="cpu")
        model.hf.eval()
        for num_questions in (1, 4):
            found = measure(model, num_questions, options.pairs)
            print(place, num_questions, json.dumps(found), flush=True)
            kept[f"{place.rstrip('/').split('/')[-1]}, {num_questions} question(s)"] = {
                **found,
                "machine": describe(),
                "pairs": options.pairs,
                "shape": f"{NUM_LABELS} labels, {NUM_SHOTS} demonstrations",
            }
            if options.write:
                RESULTS.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
