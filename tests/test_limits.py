"""Bounds of numbers."""

from __future__ import annotations

from typing import Any

import pytest

from posttrain.errors import ConfigError
from posttrain.limits import check_values


@pytest.mark.parametrize(
    ("key", "value"),
    [("batch_size", 0), ("seed", -1), ("adam_beta1", 1.0), ("learning_rate", 11.0)],
)
def test_numbers_out_of_bounds_are_named(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{key}: {value:g}"):
        check_values({key: value})


def test_the_bounds_themselves_pass() -> None:
    check_values({"batch_size": 1, "seed": 0, "adam_beta1": 0.0, "learning_rate": 10.0})
