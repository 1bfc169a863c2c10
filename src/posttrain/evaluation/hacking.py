"""Reward hacking under best-of-N: the proxy and the gold reward against N and against KL.

Of a prompt's N samples, best-of-n by a proxy is estimated without bias over all subsets of n
(`evaluation.reward_model.best_of`). Its divergence from the policy is at most

    KL(best-of-n || policy) <= log n - (n - 1) / n

nats (Beirami et al., arXiv 2401.01879). Where gold falls while the proxy goes on rising, the proxy
is hacked (Gao et al., arXiv 2210.10760).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from posttrain.errors import DataError
from posttrain.evaluation.reward_model import best_of, kl_best_of
from posttrain.evaluation.statistics import (
    Difference,
    Interval,
    holm,
    mean_interval,
    paired_bootstrap,
)
from posttrain.files import write_text_whole
from posttrain.report.hacking import Line, hacking_svg

FILE = "hacking.json"
Numbers = NDArray[np.float64]
_SIGNIFICANT = 0.05


@dataclass(frozen=True, slots=True)
class Point:
    """Best of n by a proxy.

    Attributes:
        n: samples per prompt. kl: bound of the divergence from the policy, nats.
        proxy: the proxy's own score of the choice. gold: the gold reward of the choice.
    """

    n: int
    kl: float
    proxy: Interval
    gold: Interval


@dataclass(frozen=True, slots=True)
class Curve:
    """A proxy at n = 1, 2, 4, ...

    Attributes:
        name: of the proxy. points: by n.
        peak: the n with the highest mean gold reward.
        fall: gold at the largest n minus gold at the peak. Each half of the prompts takes its peak
            from the other half, so that choosing the peak does not bias the difference.
        unscored: completions to which the proxy gave no score; they are chosen last.
    """

    name: str
    points: tuple[Point, ...]
    peak: int
    fall: Difference
    unscored: int = 0

    @property
    def peak_kl(self) -> float:
        """The divergence at the peak, nats."""
        return kl_best_of(self.peak)


def gold_table(scores: ArrayLike, gold: ArrayLike) -> Numbers:
    """Gold reward of the best of n = 1, 2, 4, ... for each prompt: [P, N], [P, N] -> [P, K]."""
    number = np.asarray(scores).shape[1]
    return np.stack([best_of(scores, gold, n) for n in sizes(number)], axis=1)


def sizes(number: int) -> list[int]:
    """1, 2, 4, ... up to the number of samples.

    >>> sizes(12)
    [1, 2, 4, 8]
    """
    return [2**i for i in range(number.bit_length()) if 2**i <= number]


def curve_of(name: str, scores: ArrayLike, gold: ArrayLike, *, seed: int = 0) -> Curve:
    """The curve of one proxy.

    Args:
        scores: [P, N], -inf where the proxy gave no score. gold: [P, N].
        seed: of the bootstrap.

    Raises:
        DataError: fewer than two prompts or samples, or a proxy without any score.
    """
    s, g = np.asarray(scores, dtype=np.float64), np.asarray(gold, dtype=np.float64)
    if s.shape != g.shape or s.ndim != 2 or min(s.shape) < 2:
        raise DataError(
            f"hacking: scores have the shape {s.shape} and gold {g.shape}; both must be [prompts, "
            "samples] with at least 2 of each"
        )
    scored = np.isfinite(s)
    if not scored.any():
        raise DataError(f"hacking: proxy {name!r} scored none of the {s.size} completions")
    shown = np.where(scored, s, s[scored].min())
    table = gold_table(s, g)
    points = [
        Point(
            n,
            kl_best_of(n),
            mean_interval(best_of(s, shown, n), are_shares=False),
            mean_interval(table[:, place], are_shares=_are_shares(g)),
        )
        for place, n in enumerate(sizes(s.shape[1]))
    ]
    peak = points[int(table.mean(0).argmax())].n
    return Curve(name, tuple(points), peak, fall_of(table, seed=seed), int((~scored).sum()))


def fall_of(table: ArrayLike, *, seed: int = 0) -> Difference:
    """Gold at the largest n minus gold at the peak, with the peak of the other half of the prompts.

    Args:
        table: gold rewards [P, K] by n.
    """
    t = np.asarray(table, dtype=np.float64)
    half = np.arange(len(t)) % 2
    at_peak = np.empty(len(t))
    for fold in (0, 1):
        place = int(t[half != fold].mean(0).argmax())
        at_peak[half == fold] = t[half == fold, place]
    return paired_bootstrap(at_peak, t[:, -1], seed=seed)


def regularized_scores(scores: ArrayLike, costs: ArrayLike, weight: float) -> Numbers:
    """Scores of regularised best-of-N: s - w c (Jinnai et al., arXiv 2404.01054).

    Args:
        costs: [P, N], -log policy(y | x) in nats, or lengths in tokens. weight: w.
    """
    return np.asarray(scores, dtype=np.float64) - weight * np.asarray(costs, dtype=np.float64)


@dataclass(slots=True)
class Hacking:
    """Proxies and the gold reward against N, on the same samples. `print` shows a table.

    Attributes:
        task, model: in words. gold: name of the gold reward, which chose nothing.
        num_prompts, num_samples: of the table. curves: one per proxy; the first is compared with.
        ceiling: gold reward of the best of all samples by gold.
        gains: of each curve but the first, its gold at the largest n minus the first one's.
    """

    task: str
    model: str
    gold: str
    num_prompts: int
    num_samples: int
    curves: list[Curve]
    ceiling: float
    gains: dict[str, Difference]
    seed: int = 0

    def p_values(self) -> list[float]:
        """Of the falls, adjusted for the number of curves (Holm)."""
        return holm([curve.fall.p_value for curve in self.curves])

    def is_hacked(self, name: str) -> bool:
        """Whether gold falls significantly behind its peak under a proxy."""
        for curve, p in zip(self.curves, self.p_values(), strict=True):
            if curve.name == name:
                return curve.fall.estimate < 0 and p < _SIGNIFICANT
        raise DataError(f"hacking: no curve is called {name!r}")

    def lines(self) -> list[str]:
        """One line per proxy: where gold peaks, and how far it falls."""
        lines = []
        for curve, p in zip(self.curves, self.p_values(), strict=True):
            best = next(x for x in curve.points if x.n == curve.peak)
            text = (
                f"{curve.name}: gold peaks at N = {curve.peak} (KL {curve.peak_kl:.2f} nats) with "
                f"{best.gold.estimate:.3f}; from there to N = {curve.points[-1].n} "
                f"{_difference(curve.fall)}, p = {p:.2g}"
            )
            gain = self.gains.get(curve.name)
            if gain is not None:
                text += f"; against {self.curves[0].name} {_difference(gain)}"
            lines.append(text)
        return lines

    def __str__(self) -> str:
        head = f"{self.task}, {self.num_prompts} prompts, {self.num_samples} samples, {self.model}"
        lines = [
            head if len(head) <= 80 else f"{head[:77]}...",
            f"gold: {self.gold} (oracle: watched, never chosen by)",
            f"{'proxy':<24} {'N':>5} {'KL':>6} {'proxy':>9} {'gold':>7} {'95 % interval':>16}",
        ]
        for curve in self.curves:
            for x in curve.points:
                mark = "*" if x.n == curve.peak else " "
                interval = f"{x.gold.low:.3f} to {x.gold.high:.3f}"
                lines.append(
                    f"{curve.name[:24]:<24} {x.n:>5} {x.kl:>6.2f} {x.proxy.estimate:>9.3f} "
                    f"{x.gold.estimate:>6.3f}{mark} {interval:>16}"
                )
            if curve.unscored:
                lines.append(f"  {curve.unscored} completions without a score are chosen last")
        last = self.curves[0].points[-1].n
        lines += ["* the peak of gold", f"the best of {last} by gold itself: {self.ceiling:.3f}"]
        return "\n".join([*lines, *self.lines()])

    def to_json(self) -> dict[str, Any]:
        """Plain values for hacking.json."""
        return {**asdict(self), "p_values": self.p_values(), "lines": self.lines()}

    def svg(self) -> str:
        """The plot: gold with intervals, and the proxy's rank between its ends, against KL."""
        lines = []
        for curve in self.curves:
            dots = [(x.kl, x.gold.estimate, x.gold.low, x.gold.high) for x in curve.points]
            proxy = [x.proxy.estimate for x in curve.points]
            low, width = min(proxy), max(proxy) - min(proxy)
            shares = [(p - low) / width if width > 0 else 0.0 for p in proxy]
            lines.append(Line(curve.name, dots, shares))
        return hacking_svg(f"{self.task}: gold reward of best-of-N against KL", lines)

    def save(self, folder: str | Path) -> Path:
        """Write hacking.json, hacking.svg and hacking.txt into a folder."""
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        write_text_whole(place / FILE, json.dumps(self.to_json(), indent=1))
        write_text_whole(place / "hacking.svg", self.svg())
        write_text_whole(place / "hacking.txt", f"{self}\n")
        return place


def hacking_of(
    task: str,
    model: str,
    gold_name: str,
    proxies: Mapping[str, ArrayLike],
    gold: ArrayLike,
    *,
    seed: int = 0,
) -> Hacking:
    """All curves over one table of samples.

    Args:
        proxies: scores [P, N] by name. gold: [P, N], finite.

    Raises:
        DataError: no proxy, or tables of other shapes.
    """
    g = np.asarray(gold, dtype=np.float64)
    if not proxies:
        raise DataError("hacking: there is no proxy; name at least one")
    curves = [curve_of(name, scores, g, seed=seed) for name, scores in proxies.items()]
    last = {name: gold_table(scores, g)[:, -1] for name, scores in proxies.items()}
    first = curves[0].name
    gains = {
        name: paired_bootstrap(last[first], values, seed=seed)
        for name, values in last.items()
        if name != first
    }
    ceiling = float(best_of(g, g, sizes(g.shape[1])[-1]).mean())
    prompts, samples = g.shape
    return Hacking(task, model, gold_name, prompts, samples, curves, ceiling, gains, seed)


def read_hacking(path: str | Path) -> Hacking:
    """What `Hacking.save` wrote.

    Raises:
        DataError: it is missing or broken.
    """
    file = Path(path)
    file = file / FILE if file.is_dir() else file
    if not file.is_file():
        raise DataError(f"no curves at {file}; make them with `posttrain hacking MODEL --task T`")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        curves = [_curve(item) for item in values["curves"]]
        gains = {name: Difference(**d) for name, d in values["gains"].items()}
        rest = {k: values[k] for k in ("task", "model", "gold", "num_prompts", "num_samples")}
        return Hacking(
            **rest, curves=curves, ceiling=values["ceiling"], gains=gains, seed=values["seed"]
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} holds no curves ({type(error).__name__}: {error})") from error


def _curve(values: dict[str, Any]) -> Curve:
    points = [
        Point(x["n"], x["kl"], Interval(**x["proxy"]), Interval(**x["gold"]))
        for x in values["points"]
    ]
    fall = Difference(**values["fall"])
    return Curve(values["name"], tuple(points), values["peak"], fall, values["unscored"])


def _are_shares(gold: Numbers) -> bool:
    return bool((gold >= 0).all() and (gold <= 1).all())


def _difference(d: Difference) -> str:
    if math.isnan(d.estimate):
        return "nothing"
    return f"{d.estimate:+.3f} [{d.low:+.3f}, {d.high:+.3f}]"
