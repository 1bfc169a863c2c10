"""Margins of pairs by their verdicts."""

from __future__ import annotations

import pytest

from posttrain.data.safety import safety_margins
from posttrain.errors import DataError


def test_a_margin_takes_the_place_of_the_verdicts() -> None:
    pair = {"prompt": "p", "chosen": "a", "rejected": "b"}
    (row,) = safety_margins([{**pair, "chosen_safe": True, "rejected_safe": False}])
    assert row == {**pair, "margin": 1.0}
    (row,) = safety_margins([{**pair, "chosen_safe": 0, "rejected_safe": 0}], alpha=0.0)
    assert row["margin"] == 0.0


@pytest.mark.parametrize(
    "verdicts", [{}, {"chosen_safe": 1}, {"chosen_safe": 2, "rejected_safe": 0}]
)
def test_a_row_without_verdicts_is_refused(verdicts: dict) -> None:
    with pytest.raises(DataError):
        safety_margins([{"prompt": "p", **verdicts}])
