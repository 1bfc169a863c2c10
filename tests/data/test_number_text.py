"""Series as text and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posttrain.data.number_text import NumberFormat
from posttrain.errors import ConfigError, DataError


def test_the_ends_of_a_context_are_those_of_the_paper() -> None:
    form = NumberFormat()
    series = np.array([-3.0, 4.0, 0.5])
    scale = form.scale(series)
    assert form.integers(series, scale).tolist() == [150, 850, 500]
    assert form.text(form.integers(series, scale)) == "150,850,500,"


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30),
    st.integers(1, 4),
)
def test_a_round_trip_errs_by_half_a_step(values: list[float], digits: int) -> None:
    form = NumberFormat(digits)
    scale = form.scale(values)
    integers = form.integers(values, scale)
    assert np.array_equal(form.parse(form.text(integers)), integers)
    back = scale.values(integers)
    assert np.abs(back - values).max() <= scale.width * (0.5 + 1e-6) + 1e-9


def test_values_beyond_the_range_are_cut_and_equal_ones_lie_in_the_middle() -> None:
    form = NumberFormat(2)
    scale = form.scale([0.0, 1.0])
    assert form.integers([-100.0, 100.0], scale).tolist() == [0, 99]
    assert form.integers([7.0], form.scale([7.0, 7.0])).tolist() == [50]


@pytest.mark.parametrize("text", ["12,", "1234,", "12a,", "", "１２３"])
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(DataError):
        NumberFormat().parse(text)


def test_wrong_settings_and_gaps_are_refused() -> None:
    for settings in ({"digits": 0}, {"digits": 5}, {"low": 3.0, "high": 2.0}, {"high": 10.0}):
        with pytest.raises(ConfigError):
            NumberFormat(**settings)
    for values in ([], [1.0, float("nan")]):
        with pytest.raises(DataError):
            NumberFormat().scale(values)
