"""Plain float64 losses, written for reading and not for speed: one Python loop per token, no
shared code.
"""

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
    if level == "sequence_sum":
        differences = [sum(differences)] * len(differences)
    if level == "sequence_token":
        frozen = [math.log(r) for r in s["frozen_ratios"]]
        differences = [mean(frozen) + d - f for d, f in zip(differences, frozen, strict=True)]
    return [math.exp(d) for d in differences]


def clipped(
    s: dict[str, list[float]],
    level: str = "token",
    low: float = 0.2,
    high: float = 0.2,
    cap: float = math.inf,
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
    return [
        -min(w, cap) * a * x
        for w, a, x in zip(weights, s["advantages"], s["logprobs"], strict=True)
    ]


def kl(s: dict[str, list[float]], estimator: str = "k3") -> list[float]:
    out = []
    for x, r in zip(s["logprobs"], s["ref_logprobs"], strict=True):
        d = r - x
        out.append({"k1": -d, "k2": d * d / 2, "k3": math.exp(d) - d - 1}[estimator])
    return out


def surrogate(s: dict[str, list[float]], level: str = "token") -> list[float]:
    return [-r * a for r, a in zip(_ratios(s, level), s["advantages"], strict=True)]


def sapo(s: dict[str, list[float]], level: str = "token") -> list[float]:
    out = []
    for ratio, a in zip(_ratios(s, level), s["advantages"], strict=True):
        t = 1.0 if a > 0 else 1.05
        out.append(-4 / t * a / (1 + math.exp(-t * (ratio - 1))))
    return out


def vespo(s: dict[str, list[float]]) -> list[float]:
    w = math.exp(
        min(
            max(sum(min(max(math.log(r), -20), 20) for r in s["frozen_ratios"]), math.log(1e-8)), 20
        )
    )
    out = []
    for x, a in zip(s["logprobs"], s["advantages"], strict=True):
        k, rate = (2, 3) if a >= 0 else (3, 2)
        out.append(-(w**k) * math.exp(rate - rate * w) * a * x)
    return out


def topr(s: dict[str, list[float]], positive: float = math.nan) -> list[float]:
    ratio = math.exp(min(sum(math.log(r) for r in s["frozen_ratios"]), 50))
    up = 1.0 if math.isnan(positive) else min(ratio, positive)
    return [
        -(up if a >= 0 else min(ratio, 1.0)) * a * x
        for a, x in zip(s["advantages"], s["logprobs"], strict=True)
    ]


def dppo(s: dict[str, list[float]], kind: str = "tv", bound: float = 0.15) -> list[float]:
    out = []
    for new, ratio, a, x in zip(
        s["frozen_probs"], s["frozen_ratios"], s["advantages"], s["logprobs"], strict=True
    ):
        old = new / ratio
        if kind == "tv":
            distance = abs(new - old)
        else:
            rest = math.log(max(1 - old, 1e-8) / max(1 - new, 1e-8))
            distance = old * math.log(old / new) + (1 - old) * rest
        away = (a > 0 and new > old) or (a < 0 and new < old)
        out.append(0.0 if away and distance > bound else -min(ratio, 20.0) * a * x)
    return out


def opsm(s: dict[str, list[float]], threshold: float = 0.5) -> list[float]:
    old = [math.log(p / r) for p, r in zip(s["frozen_probs"], s["frozen_ratios"], strict=True)]
    now = [o + math.log(r) for o, r in zip(old, s["frozen_ratios"], strict=True)]
    drift = mean([e - n for e, n in zip(s["engine_logprobs"], now, strict=True)])
    masked = s["advantages"][0] < 0 and drift > threshold
    return [0.0] * len(old) if masked else clipped(s)


def kl_corrected(
    s: dict[str, list[float]], estimator: str = "k3", level: str = "token"
) -> list[float]:
    return [r * k for r, k in zip(_ratios(s, level), kl(s, estimator), strict=True)]


def adaptive_entropy(
    s: dict[str, list[float]], scale: float = 0.01, rate: float = 1.0
) -> list[float]:
    return [
        -scale * math.exp(-rate * v) * h
        for v, h in zip(s["reward_variance"], s["entropy"], strict=True)
    ]


def weighted_entropy(s: dict[str, list[float]]) -> list[float]:
    return [-w * h for w, h in zip(s["entropy_weight"], s["entropy"], strict=True)]


def value(s: dict[str, list[float]], clip: float = math.inf) -> list[float]:
    out = []
    for v, old, r in zip(s["values"], s["old_values"], s["returns"], strict=True):
        near = min(max(v, old - clip), old + clip)
        out.append(max((v - r) ** 2, (near - r) ** 2) / 2)
    return out


def aggregate(per_sequence: list[list[float]], aggregation: str, max_length: int) -> float:
    if aggregation == "token_mean":
        return sum(map(sum, per_sequence)) / sum(map(len, per_sequence))
    if aggregation == "sequence_mean":
        return mean([mean(values) for values in per_sequence])
    if aggregation == "sequence_sum":
        return mean([sum(values) for values in per_sequence])
    return sum(map(sum, per_sequence)) / (len(per_sequence) * max_length)
