"""Every measure of a sequence against numbers worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from posttrain.errors import ConfigError
from posttrain.evaluation import continual

# Perplexities of three domains: before, and after each of three stages.
P = np.array(
    [
        [20.0, 30.0, 40.0],
        [10.0, 28.0, 44.0],
        [12.0, 15.0, 38.0],
        [16.0, 18.0, 25.0],
    ]
)

# Scores of three tasks.
R = np.array(
    [
        [0.1, 0.2, 0.3],
        [0.9, 0.3, 0.2],
        [0.7, 0.8, 0.5],
        [0.8, 0.6, 0.9],
    ]
)


def test_columns_of_the_table() -> None:
    assert continual.zero_shot(P).tolist() == [20, 30, 40]
    assert continual.own_stage(P).tolist() == [10, 15, 25]
    assert continual.last_checkpoint(P).tolist() == [16, 18, 25]
    assert continual.forgetting_gap(P).tolist() == [6, 3, 0]


def test_gains_of_stages() -> None:
    """Stage 2 leaves domain 1 at 12 of 20; stage 3 domains 1 and 2 at 16 of 20 and 18 of 30."""
    backward = continual.backward_gains(P)
    assert math.isnan(backward[0]) and backward[1:].tolist() == [8, (4 + 12) / 2]
    forward = continual.forward_gains(P)
    assert forward[:2].tolist() == [(2 - 4) / 2, 2] and math.isnan(forward[2])
    assert continual.gains(P)[0].tolist() == [0, 0, 0]


def test_gains_by_lag() -> None:
    """Lag 1 is (2, 1) and (3, 2): 8 and 12. Lag -1 is (1, 2) and (2, 3): 2 and 2."""
    by_lag = continual.gains_by_lag(P)
    assert list(by_lag) == [-2, -1, 0, 1, 2]
    assert by_lag == {-2: -4, -1: 2, 0: pytest.approx(40 / 3), 1: 10, 2: 4}


def test_scores_of_the_last_stage() -> None:
    assert continual.average_performance(R) == pytest.approx((0.8 + 0.6 + 0.9) / 3)
    assert continual.backward_transfer(R) == pytest.approx((-0.1 - 0.2) / 2)
    assert continual.forward_transfer(R) == pytest.approx(((0.3 - 0.2) + (0.5 - 0.3)) / 2)
    assert continual.forgetting_measure(R) == pytest.approx((0.1 + 0.2) / 2)
    assert continual.intransigence(R, [1.0, 0.7, 1.0]) == pytest.approx((0.1 - 0.1 + 0.1) / 3)


def test_scores_of_an_earlier_stage() -> None:
    assert continual.average_performance(R, 2) == pytest.approx(0.75)
    assert continual.average_performance(R, 1) == pytest.approx(0.9)
    assert continual.backward_transfer(R, 2) == pytest.approx(-0.2)
    assert continual.forward_transfer(R, 2) == pytest.approx(0.1)
    assert continual.forgetting_measure(R, 2) == pytest.approx(0.2)


def test_forgetting_is_from_the_best_trained_stage() -> None:
    """Task 1 was best at stage 2; what it scored before any stage does not count."""
    scores = np.array([[0.95, 0.0, 0.0], [0.5, 0, 0], [0.75, 0, 0], [0.25, 0, 0]])
    assert continual.forgetting_measure(scores) == pytest.approx((0.5 + 0) / 2)


def test_nothing_forgotten_is_zero() -> None:
    kept = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    assert continual.backward_transfer(kept) == continual.forgetting_measure(kept) == 0
    assert continual.forgetting_gap(1 - kept).tolist() == [0, 0]


def test_a_missing_value_is_not_averaged_away() -> None:
    scores = R.copy()
    scores[3, 0] = math.nan
    assert math.isnan(continual.backward_transfer(scores))
    assert continual.backward_transfer(scores, 2) == pytest.approx(-0.2)


def test_ability_delta_pairs_suites() -> None:
    delta = continual.ability_delta({"a": 0.5, "b": 0.25}, {"b": 0.5, "a": 0.25})
    assert delta == 0
    with pytest.raises(ConfigError):
        continual.ability_delta({"a": 0.5}, {"b": 0.5})
    with pytest.raises(ConfigError):
        continual.ability_delta({}, {})


@pytest.mark.parametrize("shape", [(3, 3), (2, 3), (1, 0), (4,)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError):
        continual.own_stage(np.zeros(shape))


@pytest.mark.parametrize("stage", [0, 1, 4])
def test_stages_out_of_range_are_refused(stage: int) -> None:
    with pytest.raises(ConfigError):
        continual.backward_transfer(R, stage)


def test_references_of_another_number_are_refused() -> None:
    with pytest.raises(ConfigError):
        continual.intransigence(R, [1.0, 1.0])


def test_intervals_over_seeds() -> None:
    """1, 2, 3: mean 2, s = 1, t_{2, .975} = 4.302653; differences of 1 +- 0 are certain."""
    interval = continual.over_seeds([1.0, 2.0, 3.0])
    assert interval.high - interval.estimate == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    difference = continual.paired_over_seeds([1.0, 5.0], [2.0, 6.0])
    assert (difference.estimate, difference.p_value) == (1, 0)
