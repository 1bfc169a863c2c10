"""Synthetic series written as digits: what the embedded dynamics model is trained on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from posttrain.data.number_text import NumberFormat
from posttrain.errors import ConfigError
from posttrain.registry import tasks
from posttrain.types import Example, Task

Numbers = NDArray[np.float64]
Draw = np.random.Generator

_BURN_IN = 30  # values of a recursion that are dropped, so that a series begins anywhere


def autoregressive(length: int, draw: Draw) -> Numbers:
    """x_t = a x_{t-1} + b x_{t-2} + e_t with roots within the unit circle, by radius and angle."""
    radius = 1 - 10 ** draw.uniform(-2.5, -0.15)
    if draw.random() < 0.5:
        first, second = radius * draw.choice([1, 1, -1]), 0.0
    else:
        angle = draw.uniform(0.05, 2.5)
        first, second = 2 * radius * np.cos(angle), -(radius**2)
    return _recursion(first, second, draw.standard_normal(length + _BURN_IN))


def sinusoids(length: int, draw: Draw) -> Numbers:
    """sum_k A_k sin(2 pi t / period_k + phase_k) + noise, of one to three periods."""
    t = np.arange(length)
    count = draw.integers(1, 4)
    periods = 10 ** draw.uniform(0.6, 2.2, count)
    phases = draw.uniform(0, 2 * np.pi, count)
    heights = draw.uniform(0.2, 1, count)
    waves = heights[:, None] * np.sin(2 * np.pi * t / periods[:, None] + phases[:, None])
    return waves.sum(0) + 10 ** draw.uniform(-3, -0.5) * draw.standard_normal(length)


def heteroscedastic(length: int, draw: Draw) -> Numbers:
    """An autoregression whose noise follows a wave: e_t ~ N(0, s_t^2), s_t = exp(c sin(...))."""
    t = np.arange(length + _BURN_IN)
    period, swing = 10 ** draw.uniform(0.9, 1.8), draw.uniform(0.7, 1.6)
    spread = np.exp(swing * np.sin(2 * np.pi * t / period + draw.uniform(0, 2 * np.pi)))
    return _recursion(draw.uniform(0, 0.9), 0.0, spread * draw.standard_normal(len(t)))


def clipped_waves(length: int, draw: Draw) -> Numbers:
    """Waves of one period that are bent: c tanh(g sin(...)), plus a slow autoregression."""
    t = np.arange(length)
    period, gain = 10 ** draw.uniform(0.7, 2), 10 ** draw.uniform(-0.3, 0.9)
    wave = np.tanh(gain * np.sin(2 * np.pi * t / period + draw.uniform(0, 2 * np.pi)))
    drift = autoregressive(length, draw)
    return wave + draw.uniform(0, 0.3) * drift / max(float(drift.std()), 1e-9)


def mixture(length: int, draw: Draw) -> Numbers:
    """A weighted sum of two series of the other kinds, each of unit variance."""
    kinds = [autoregressive, sinusoids, heteroscedastic]
    parts = [kinds[int(draw.integers(3))](length, draw) for _ in range(2)]
    share = draw.uniform(0.1, 0.9)
    first, second = (p / max(float(p.std()), 1e-9) for p in parts)
    return share * first + (1 - share) * second


KINDS: dict[str, Callable[[int, Draw], Numbers]] = {
    "autoregressive": autoregressive,
    "sinusoids": sinusoids,
    "heteroscedastic": heteroscedastic,
    "clipped_waves": clipped_waves,
    "mixture": mixture,
}
"""Generators of series [length], by name."""


def draw_series(kind: str, length: int, draw: Draw) -> Numbers:
    """A series [length] of a kind, or of any ("any").

    Raises:
        ConfigError: no such kind.
    """
    if kind != "any" and kind not in KINDS:
        raise ConfigError(f"no series of kind {kind!r}; there are any, {', '.join(KINDS)}")
    name = kind if kind != "any" else list(KINDS)[int(draw.integers(len(KINDS)))]
    return KINDS[name](length, draw)


@tasks.register
def digit_series(
    *,
    num_examples: int = 1000,
    num_values: int = 128,
    digits: int = 2,
    kind: str = "any",
    seed: int = 0,
) -> Task:
    """Synthetic series as text, such as "15,31,85,": autoregressions, waves, mixtures, and noise
    whose size changes.

    Minimum and maximum are those of a beginning of the series, of a quarter to all of it, so that
    later values may lie outside. There is nothing to verify: the score is always 1.

    num_values: of each series. digits: of each number. kind: of the series, any or one of
        `KINDS`.
    """
    if num_values < 8:
        raise ConfigError(f"digit_series: num_values is {num_values}; a series has at least 8")
    form = NumberFormat(digits)
    draw = np.random.default_rng([seed, num_values, 20])
    examples = []
    for i in range(num_examples):
        series = draw_series(kind, num_values, draw)
        share = 1.0 if draw.random() < 0.5 else draw.uniform(0.25, 1)
        scale = form.scale(series[: max(4, int(share * num_values))])
        text = form.text(form.integers(series, scale))
        examples.append(Example("", text, id=f"series-{i}"))
    return Task("digit_series", examples, lambda text, example: 1.0, lambda text: None)


def _recursion(first: float, second: float, noise: Numbers) -> Numbers:
    values = np.zeros(len(noise))
    for t in range(2, len(noise)):
        values[t] = first * values[t - 1] + second * values[t - 2] + noise[t]
    return values[_BURN_IN:]
