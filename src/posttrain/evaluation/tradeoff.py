"""Accuracy against what it costs: points, their front, and where more tokens stop helping."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.evaluation.metrics import majority_at_k
from posttrain.evaluation.statistics import (
    Difference,
    Interval,
    holm,
    mean_interval,
    paired_bootstrap,
)
from posttrain.files import write_text_whole
from posttrain.report.tradeoff import Line, tradeoff_svg

POOLED = ("majority_vote", "weighted_vote", "best_of_n", "most_likely")
"""Strategies whose choice among k samples is estimated from a pool of more."""

_SUBSETS = 200
_SIGNIFICANT = 0.05


@dataclass(frozen=True, slots=True)
class Pool:
    """The samples of one problem, graded.

    answers, correct, scores, num_tokens: one per sample. A score is the scorer's, -inf where it
    gave none; of a vote 1. mean_logprobs: per token, which settle ties.
    """

    answers: Sequence[str | None]
    correct: Sequence[int]
    scores: Sequence[float]
    num_tokens: Sequence[int]
    mean_logprobs: Sequence[float]


def best_of_k(pool: Pool, k: int) -> float:
    """Expected correctness of the best of k samples by score, over all subsets of the pool's N.

    With the samples in ascending order of (score, log-prob per token), the one of rank r is the
    best of a random subset with probability C(r - 1, k - 1) / C(N, k). NaN where N < k.
    """
    number = len(pool.correct)
    if number < k:
        return math.nan
    keys = list(zip(pool.scores, pool.mean_logprobs, strict=True))
    order = sorted(range(number), key=lambda i: keys[i])
    total = math.comb(number, k)
    return sum(math.comb(rank, k - 1) / total * pool.correct[i] for rank, i in enumerate(order))


def weighted_vote_at_k(pool: Pool, k: int, *, seed: int = 0) -> float:
    """Expected correctness of a weighted vote over k samples of the pool, over seeded subsets; ties
    share the credit. NaN where the pool has fewer.
    """
    number = len(pool.correct)
    if number < k:
        return math.nan
    draw = np.random.default_rng(seed)
    many = 1 if k == number else _SUBSETS
    values = [_weighted(pool, draw.permutation(number)[:k].tolist()) for _ in range(many)]
    return float(np.mean(values))


def _weighted(pool: Pool, places: Sequence[int]) -> float:
    weights: dict[str, float] = {}
    right: set[str] = set()
    for i in places:
        answer, score = pool.answers[i], pool.scores[i]
        if answer is None or score == -math.inf:
            continue
        weights[answer] = weights.get(answer, 0.0) + score
        if pool.correct[i]:
            right.add(answer)
    if not weights:
        return 0.0
    most = max(weights.values())
    winners = [a for a, w in weights.items() if w == most]
    return sum(a in right for a in winners) / len(winners)


def at_k(search: str, pool: Pool, k: int, *, seed: int = 0) -> float:
    """Expected correctness of a strategy of `POOLED` with k samples."""
    if search == "majority_vote":
        return majority_at_k(pool.answers, pool.correct, k, seed=seed)
    if search == "weighted_vote":
        return weighted_vote_at_k(pool, k, seed=seed)
    return best_of_k(pool, k)


def disagrees(pool: Pool) -> bool:
    """Whether the samples of a problem have different answers, none among them."""
    return len(set(pool.answers)) > 1


def tokens_after_right(pool: Pool) -> int | None:
    """Tokens of the samples behind the first right one; None where none is right."""
    if not any(pool.correct):
        return None
    first = next(i for i, c in enumerate(pool.correct) if c)
    return sum(pool.num_tokens[first + 1 :])


@dataclass(frozen=True, slots=True)
class Point:
    """A strategy at a budget.

    Attributes:
        strategy: in words. budget: tokens per problem that were allowed. num_samples: of an
            estimate from a pool, the samples that fit into the budget; None where the search ran
            under the budget.
        correct: of each problem, 0 to 1. tokens: sampled per problem, all of them. seconds: wall
            seconds per problem, others beside it; of a pool's subset its share. flops: 2 x
            parameters x tokens computed, per problem; None where the parameters are unknown.
        oracle: whether the gold chose.
    """

    strategy: str
    search: str
    settings: dict[str, Any]
    budget: int
    num_samples: int | None
    correct: list[float]
    tokens: float
    seconds: float
    flops: float | None
    oracle: bool = False

    @property
    def accuracy(self) -> Interval:
        """Mean over problems with its interval."""
        return mean_interval(self.correct)


@dataclass(frozen=True, slots=True)
class Waste:
    """What more samples could have given, of a strategy at its largest budget.

    disagreeing: share of the problems whose samples disagree: on the others no choice matters.
    tokens_after_right: tokens per problem that were sampled behind the first right sample, over
    the problems that have one; NaN where none has.
    """

    disagreeing: float
    tokens_after_right: float


def waste_of(pools: Sequence[Pool]) -> Waste:
    """The waste of the problems' samples."""
    after = [t for pool in pools if (t := tokens_after_right(pool)) is not None]
    share = sum(map(disagrees, pools)) / max(len(pools), 1)
    return Waste(share, sum(after) / len(after) if after else math.nan)


@dataclass(slots=True)
class Tradeoff:
    """Strategies at budgets on the same problems. `print` shows a table; `save` writes it.

    Attributes:
        points: by strategy, then by budget. waste: by strategy, see `Waste`.
        num_parameters: of the model; None where unknown.
    """

    task: str
    model: str
    ids: list[str]
    points: list[Point]
    waste: dict[str, Waste] = field(default_factory=dict)
    num_parameters: int | None = None
    seed: int = 1234

    def front(self) -> list[Point]:
        """The Pareto front, by tokens: no other deployable point has at most as many tokens and at
        least the accuracy. Oracles are left out.
        """
        best, chosen = -math.inf, []
        deployable = [p for p in self.points if not p.oracle]
        for point in sorted(deployable, key=lambda p: (p.tokens, -p.accuracy.estimate)):
            if point.accuracy.estimate > best:
                best = point.accuracy.estimate
                chosen.append(point)
        return chosen

    def of(self, strategy: str) -> list[Point]:
        """The points of a strategy, by budget."""
        return sorted((p for p in self.points if p.strategy == strategy), key=lambda p: p.budget)

    @property
    def strategies(self) -> list[str]:
        """In the order of the points."""
        return list(dict.fromkeys(p.strategy for p in self.points))

    def gains(self, strategy: str) -> list[Difference]:
        """Of each budget over the next smaller one, paired over problems."""
        points = self.of(strategy)
        return [
            paired_bootstrap(a.correct, b.correct, seed=self.seed)
            for a, b in itertools.pairwise(points)
        ]

    def saturation(self, strategy: str) -> int | None:
        """The smallest budget over which no larger one is significantly better (paired bootstrap,
        p < 0.05 after Holm's correction); None where there is one budget alone.
        """
        points = self.of(strategy)
        if len(points) < 2:
            return None
        for place, point in enumerate(points[:-1]):
            more = [
                paired_bootstrap(point.correct, larger.correct, seed=self.seed)
                for larger in points[place + 1 :]
            ]
            adjusted = holm([d.p_value for d in more])
            if not any(
                d.estimate > 0 and p < _SIGNIFICANT for d, p in zip(more, adjusted, strict=True)
            ):
                return point.budget
        return points[-1].budget

    def table(self) -> str:
        """The points as text of at most 80 columns."""
        front = {id(point) for point in self.front()}
        head = f"{self.task}, {len(self.ids)} problems, {self.model}"
        lines = [
            head if len(head) <= 80 else f"{head[:77]}...",
            f"{'strategy':<24} {'budget':>7} {'tokens':>7} {'s':>6} {'GFLOP':>7} "
            f"{'accuracy':>9} {'95 % interval':>14}",
        ]
        for point in self.points:
            x = point.accuracy
            mark = "*" if id(point) in front else " "
            flops = "-" if point.flops is None else f"{point.flops / 1e9:.3g}"
            lines.append(
                f"{point.strategy[:24]:<24} {point.budget:>7} {point.tokens:>7.0f} "
                f"{point.seconds:>6.2g} {flops:>7} {x.estimate:>8.1%}{mark} "
                f"{f'{x.low:.1%}-{x.high:.1%}':>14}"
            )
        lines.append("* on the front of accuracy against tokens")
        for name in self.strategies:
            lines += self._notes(name)
        return "\n".join(line.rstrip() for line in lines)

    def _notes(self, name: str) -> list[str]:
        parts = []
        saturation = self.saturation(name)
        if saturation is not None:
            parts.append(f"no significant gain beyond budget {saturation}")
        waste = self.waste.get(name)
        if waste is not None:
            parts.append(f"samples disagree on {waste.disagreeing:.0%}")
            if not math.isnan(waste.tokens_after_right):
                parts.append(f"{waste.tokens_after_right:.0f} tokens after the first right one")
        return [f"{name[:76]}:", *(f"  {part}" for part in parts)] if parts else []

    def __str__(self) -> str:
        return self.table()

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        front = self.front()
        points = [
            {
                **asdict(point),
                "accuracy": asdict(point.accuracy),
                "on_front": any(point is other for other in front),
            }
            for point in self.points
        ]
        return {
            "task": self.task,
            "model": self.model,
            "num_parameters": self.num_parameters,
            "seed": self.seed,
            "ids": self.ids,
            "points": points,
            "gains": {name: [asdict(d) for d in self.gains(name)] for name in self.strategies},
            "saturation": {name: self.saturation(name) for name in self.strategies},
            "waste": {
                name: {k: None if math.isnan(v) else v for k, v in asdict(w).items()}
                for name, w in self.waste.items()
            },
        }

    def svg(self) -> str:
        """The plot: accuracy with intervals against tokens per problem, a line per strategy."""
        lines = []
        for name in self.strategies:
            points = sorted(self.of(name), key=lambda p: p.tokens)
            intervals = [p.accuracy for p in points]
            dots = [
                (p.tokens, x.estimate, x.low, x.high)
                for p, x in zip(points, intervals, strict=True)
            ]
            lines.append(Line(name, dots))
        front = [(p.tokens, p.accuracy.estimate) for p in self.front()]
        return tradeoff_svg(f"{self.task}: accuracy against tokens", lines, front)

    def save(self, folder: str | Path) -> Path:
        """Write tradeoff.json, tradeoff.svg and tradeoff.txt into a folder."""
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        write_text_whole(place / "tradeoff.json", json.dumps(self.to_json(), default=str))
        write_text_whole(place / "tradeoff.svg", self.svg())
        write_text_whole(place / "tradeoff.txt", self.table() + "\n")
        return place
