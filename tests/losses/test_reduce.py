"""Averages as weighted sums, worked by hand."""

from __future__ import annotations

import pytest
import torch

from posttrain.losses.reduce import Totals, sequence_mean, target_weights

SEQUENCE = torch.tensor([0, 0, 0, 1])
TOTALS = Totals(tokens=4, sequences=2)


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        ("token_mean", [1 / 4] * 4),
        ("sequence_mean", [1 / 6, 1 / 6, 1 / 6, 1 / 2]),
        ("sequence_sum", [1 / 2] * 4),
        ("fixed_length", [1 / 16] * 4),
    ],
)
def test_weights_of_each_average(aggregation: str, expected: list[float]) -> None:
    weights = target_weights(aggregation, SEQUENCE, 2, TOTALS, max_length=8)
    assert weights.tolist() == pytest.approx(expected)


def test_fixed_length_needs_a_length() -> None:
    with pytest.raises(ValueError, match="max_length"):
        target_weights("fixed_length", SEQUENCE, 2, TOTALS)


def test_a_sequence_without_targets_has_the_mean_zero() -> None:
    mean = sequence_mean(torch.tensor([1.0, 2.0, 3.0, 5.0]), SEQUENCE, 3)
    assert mean.tolist() == [2.0, 5.0, 0.0]


def test_counts_of_an_unknown_part_are_the_whole() -> None:
    part = Totals(tokens=1, sequences=1)
    totals = Totals(tokens=4, sequences=2, parts={"given": part})
    assert totals.on("given") is part and totals.on("sampled") is totals
