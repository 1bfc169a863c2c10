"""Synthetic series: the laws that they follow, and their text."""

from __future__ import annotations

import numpy as np
import pytest

from posttrain.data.number_text import NumberFormat
from posttrain.errors import ConfigError
from posttrain.tasks.digit_series import KINDS, digit_series, draw_series


@pytest.mark.parametrize("kind", [*KINDS, "any"])
def test_series_are_finite_and_repeat_with_their_seed(kind: str) -> None:
    for seed in range(5):
        one, two = (draw_series(kind, 100, np.random.default_rng(seed)) for _ in range(2))
        assert one.shape == (100,) and np.isfinite(one).all() and one.std() > 0
        assert np.array_equal(one, two)


def test_the_noise_of_heteroscedastic_series_changes() -> None:
    shares = []
    for seed in range(20):
        series = draw_series("heteroscedastic", 2000, np.random.default_rng(seed))
        steps = np.abs(np.diff(series))
        shares.append(np.quantile(steps, 0.95) / np.quantile(steps, 0.5))
    normal = 1.96 / 0.674  # of steps with one variance
    assert np.median(shares) > 1.2 * normal


def test_texts_are_numbers_of_the_format() -> None:
    task = digit_series(num_examples=20, num_values=32, digits=2)
    form = NumberFormat(2)
    for example in task.examples:
        assert example.prompt == "" and len(form.parse(str(example.completion))) == 32
    assert task.examples[0].completion != digit_series(num_values=32, seed=1).examples[0].completion


def test_wrong_settings_are_refused() -> None:
    for settings in ({"num_values": 3}, {"kind": "waves"}, {"digits": 9}):
        with pytest.raises(ConfigError):
            digit_series(num_examples=1, **settings)
