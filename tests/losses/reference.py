"""Plain float64 losses, written for reading and not for speed: one Python loop per token, no shared code."""

from __future__ import annotations

import math

Sequences = list[dict[str, list[float]]]
"""One mapping per sequence: name of the input -> its numbers, one per target."""


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def nll(s: dict[str, list[float]]) -> list[float]:
    return [-x for x in s["logprobs"]]


def dft(s: dict[str, list[float]]) -> list[float]:
    return [-p * x for p, x in zip(s["frozen_probs"], s["logprobs"], strict=True)]


def reinforce(s: dict[str, list[float]]) -> list[float]:
    return [-a * x for a, x in zip(s["advantages"], s["logprobs"], strict=True)]


def entropy_bonus(s: dict[str, list[float]]) -> list[float]:
    return [-x for x in s["entropy"]]


def _ratios(s: dict[str, list[float]], level: str) -> list[float]:
    differences = [x - o for x, o in zip(s["logprobs"], s["old_logprobs"], strict=True)]
    if level == "sequence":
        differences = [mean(differences)] * len(differences)
    return [math.exp(d) for d in differences]


def clipped(
    s: dict[str, list[float]], level: str = "token", low: float = 0.2, high: float = 0.2, cap: float = math.inf
) -> list[float]:
    out = []
    for ratio, a in zip(_ratios(s, level), s["advantages"], strict=True):
        bounded = min(max(ratio, 1 - low), 1 + high)
        out.append(-min(min(ratio, cap) * a, bounded * a))
    return out


def cispo(s: dict[str, list[float]], level: str = "token", cap: float = 5.0) -> list[float]:
    weights = (
        s["frozen_ratios"]
        if level == "token"
        else [math.exp(mean([math.log(r) for r in s["frozen_ratios"]]))] * len(s["logprobs"])
    )
    return [-min(w, cap) * a * x for w, a, x in zip(weights, s["advantages"], s["logprobs"], strict=True)]


def kl(s: dict[str, list[float]], estimator: str = "k3") -> list[float]:
    out = []
    for x, r in zip(s["logprobs"], s["ref_logprobs"], strict=True):
        d = r - x
        out.append({"k1": -d, "k2": d * d / 2, "k3": math.exp(d) - d - 1}[estimator])
    return out


def aggregate(per_sequence: list[list[float]], aggregation: str, max_length: int) -> float:
    if aggregation == "token_mean":
        return sum(map(sum, per_sequence)) / sum(map(len, per_sequence))
    if aggregation == "sequence_mean":
        return mean([mean(values) for values in per_sequence])
    return sum(map(sum, per_sequence)) / (len(per_sequence) * max_length)
