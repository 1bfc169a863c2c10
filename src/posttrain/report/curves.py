"""The learning curves of a run: which metrics are drawn, in what order, under what title."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.report.charts import Band, curve, several
from posttrain.report.series import Point, finite_points, number

Metrics = Sequence[Mapping[str, Any]]
"""One mapping per step, as in metrics.jsonl."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A chart of one metric, or of several on one scale.

    metrics: metric -> its name in the legend. unit: "%" for shares.
    smoothed: whether a moving average is drawn; False for what has no noise.
    """

    title: str
    metrics: Mapping[str, str]
    unit: str = ""
    smoothed: bool = True


def _one(metric: str, title: str, unit: str = "", *, smoothed: bool = True) -> Curve:
    return Curve(title, {metric: title}, unit, smoothed)


def _two(metric: str, title: str, unit: str = "") -> Curve:
    """A metric of training beside the same metric on held-out rows."""
    return Curve(title, {metric: "training", f"eval_{metric}": "held out"}, unit)


# What a method improves comes first: reward, accuracy on pairs, then the loss.
CURVES = (
    _one("evaluation/accuracy", "accuracy in evaluation", "%"),
    _one("reward", "reward ± standard deviation"),
    _two("rewards/accuracies", "accuracy: chosen above rejected", "%"),
    _two("rewards/margins", "margin: chosen - rejected reward"),
    Curve(
        "rewards of chosen and rejected",
        {"rewards/chosen": "chosen", "rewards/rejected": "rejected"},
    ),
    _two("accuracy", "accuracy of the scores", "%"),
    _two("margin", "margin of the scores"),
    Curve("scores", {"max_reward": "highest", "mean_reward": "mean", "min_reward": "lowest"}),
    _one("loss", "loss"),
    _one("eval_loss", "held-out loss"),
    Curve(
        "log-probs of chosen and rejected, nats",
        {"logps/chosen": "chosen", "logps/rejected": "rejected"},
    ),
    _one("mean_token_accuracy", "token accuracy", "%"),
    _one("kl", "KL to the reference, nats"),
    _one("watch/kl", "KL to the start, nats per completion"),
    _one("watch/repetition", "repeated 4-grams of completions", "%"),
    _one("watch/extracted", "completions with an answer", "%"),
    _one("entropy", "entropy, nats per token"),
    _one("completions/mean_length", "completion length, tokens"),
    _one("completions/clipped_ratio", "completions cut off", "%"),
    _one("episodes/num_turns", "turns per episode"),
    Curve(
        "tool calls",
        {"tools/call_frequency": "per episode", "tools/failure_frequency": "share that fails"},
    ),
    _one("frac_reward_zero_std", "groups with equal rewards", "%"),
    _one("clip_ratio/region_mean", "clipped tokens", "%"),
    _one("value/error", "error of the critic"),
    _one("grad_norm", "gradient norm"),
    _one("learning_rate", "learning rate", smoothed=False),
    _one("tokens_per_second", "tokens per second"),
    _one("memory/peak_mib", "peak memory, MiB", smoothed=False),
    _one("sampling/sampling_logp_difference/max", "largest gap of sampler and trainer, nats"),
)
# Of no use as a curve: the axis itself, and a count that grows with it.
_NOT_DRAWN = {"step", "num_tokens", "epoch", "reward_std"}


def learning_curves(metrics: Metrics) -> list[str]:
    """A chart for each known metric that has a number."""
    charts = []
    for entry in CURVES:
        series = _series(metrics, entry.metrics)
        if len(series) > 1:
            charts.append(several(entry.title, series, unit=entry.unit))
        elif series:
            charts.append(_single(metrics, entry))
        if series and "reward" in entry.metrics:
            charts += _by_reward(metrics)
    return charts


def other_curves(metrics: Metrics) -> list[str]:
    """A chart for each metric that `learning_curves` leaves out, by name."""
    drawn = {metric for entry in CURVES for metric in entry.metrics} | _NOT_DRAWN
    names = sorted({key for row in metrics for key in row} - drawn)
    series = _series(metrics, {name: name for name in names if not _is_drawn_elsewhere(name)})
    return [
        curve(name, points, smoothed=False, limit=120) for name, points in series if len(points) > 1
    ]


def compared_curves(runs: Sequence[tuple[str, Metrics]]) -> list[str]:
    """A chart for each known metric that any run has, with one line per run."""
    charts = []
    for entry in CURVES:
        for metric, name in entry.metrics.items():
            title = entry.title.partition(" ±")[0]
            title = title if len(entry.metrics) == 1 else f"{title} ({name})"
            numbered = [
                (number_of_run, (label, points))
                for number_of_run, (label, metrics) in enumerate(runs)
                for _, points in _series(metrics, {metric: name})
            ]
            if numbered:
                colours, series = [i for i, _ in numbered], [line for _, line in numbered]
                charts.append(several(title, series, unit=entry.unit, colours=colours))
    return charts


def _is_drawn_elsewhere(name: str) -> bool:
    """Rewards by function have a chart, counts of data an account."""
    return "data/" in name or (name.startswith("rewards/") and name.endswith(("/mean", "/std")))


def _series(metrics: Metrics, names: Mapping[str, str]) -> list[tuple[str, list[Point]]]:
    """(name, points) of the metrics that have a number."""
    steps = [row["step"] for row in metrics]
    series = [
        (name, finite_points(steps, [row.get(metric) for row in metrics]))
        for metric, name in names.items()
    ]
    return [(name, points) for name, points in series if points]


def _single(metrics: Metrics, entry: Curve) -> str:
    """The chart of the one metric of an entry that was recorded."""
    metric, points = next(
        (metric, series[0][1])
        for metric, name in entry.metrics.items()
        if (series := _series(metrics, {metric: name}))
    )
    # Steps at which the metric was recorded but was not a number.
    gaps = [float(r["step"]) for r in metrics if metric in r and number(r[metric]) is None]
    title = entry.title
    if len(entry.metrics) > 1 and entry.metrics[metric] != "training":
        title = f"{title} ({entry.metrics[metric]})"
    band = _reward_band(metrics) if metric == "reward" else None
    return curve(title, points, band=band, gaps=gaps, unit=entry.unit, smoothed=entry.smoothed)


def _reward_band(metrics: Metrics) -> Band:
    rows = [(r["step"], number(r.get("reward")), number(r.get("reward_std"))) for r in metrics]
    return [
        (float(step), mean - std, mean + std)
        for step, mean, std in rows
        if mean is not None and std is not None
    ]


def _by_reward(metrics: Metrics) -> list[str]:
    """The mean of each reward function, where there are several."""
    names = {
        key: key.split("/")[1]
        for key in sorted({key for row in metrics for key in row})
        if key.startswith("rewards/") and key.endswith("/mean")
    }
    series = _series(metrics, names)
    return [several("rewards by function", series)] if len(series) > 1 else []
