"""EPIC: what it takes away, and values by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from posttrain.errors import DataError
from posttrain.evaluation.reward_distance import (
    canonical_reward,
    pearson_distance,
    reward_distances,
)


def table(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(4, 3, 4))


STATES, ACTIONS = np.array([0.1, 0.2, 0.3, 0.4]), np.array([0.5, 0.3, 0.2])


def test_shaping_leaves_the_canonical_reward_as_it_is() -> None:
    """Proposition 4.2: R(s, a, s') + g F(s') - F(s) has the canonical reward of R."""
    reward, potential, discount = table(0), np.array([3.0, -1.0, 0.5, 7.0]), 0.9
    shaped = reward + discount * potential[None, None, :] - potential[:, None, None]
    first = canonical_reward(reward, STATES, ACTIONS, discount=discount)
    second = canonical_reward(shaped, STATES, ACTIONS, discount=discount)
    np.testing.assert_allclose(first, second, atol=1e-12)


def test_distance_of_scaled_and_opposed_rewards() -> None:
    """Theorem 4.7: 0 for equivalent rewards, whatever their scale, and a triangle inequality."""
    weights = STATES[:, None, None] * ACTIONS[None, :, None] * STATES[None, None, :]
    tables = [canonical_reward(table(i), STATES, ACTIONS, discount=0.9) for i in range(3)]
    a, b, c = tables

    def distance(x: np.ndarray, y: np.ndarray) -> float:
        return pearson_distance(x, y, weights)

    assert distance(a, 5 * a) == pytest.approx(0, abs=1e-7)
    assert distance(a, -2 * a) == pytest.approx(1)
    assert distance(a, b) == distance(b, a)
    assert distance(a, c) <= distance(a, b) + distance(b, c)
    assert math.isnan(pearson_distance(np.ones(3), np.arange(3.0)))


def test_completions_of_prompts() -> None:
    a = [[0.0, 1.0], [3.0, 5.0, 4.0]]
    shifted = [[10.0, 12.0], [-1.0, 3.0, 1.0]]  # 2 a, another constant for each prompt
    opposed = [[1.0, 0.0], [0.0, -2.0, -1.0]]
    # By hand: centred a is (-.5, .5, -1, 1, 0), centred other (-.5, .5, 1, -1, 0): r = -1.5 / 2.5
    other = [[0.0, 1.0], [1.0, -1.0, 0.0]]
    result = reward_distances({"a": a, "b": shifted, "c": opposed, "d": other})
    found = {(p.first, p.second): p.distance for p in result.pairs}
    assert found["a", "b"] == pytest.approx(0, abs=1e-7)
    assert found["a", "c"] == pytest.approx(1)
    assert found["a", "d"] == pytest.approx(math.sqrt((1 + 0.6) / 2))
    assert result.num_prompts == 2 and result.num_completions == 5
    assert all(p.low <= p.distance <= p.high for p in result.pairs)
    assert "a and d" in str(result) and len(result.as_dict()["pairs"]) == 6


def test_unrelated_rewards_are_at_the_square_root_of_a_half() -> None:
    draw = np.random.default_rng(1)
    a, b = draw.normal(size=(2, 400, 8)).tolist()
    (pair,) = reward_distances({"a": a, "b": b}).pairs
    assert pair.low < math.sqrt(0.5) < pair.high and pair.high - pair.low < 0.1


def test_a_constant_reward_has_no_distance() -> None:
    (pair,) = reward_distances({"a": [[0.1, 0.1, 0.1]], "b": [[0.0, 1.0, 0.0]]}).pairs
    assert math.isnan(pair.distance)


@pytest.mark.parametrize(
    "values",
    [
        {"a": [[0.0, 1.0]]},
        {"a": [[0.0, 1.0]], "b": [[0.0]]},
        {"a": [[0.0], [1.0]], "b": [[0.0], [1.0]]},
        {"a": [[0.0, math.inf]], "b": [[0.0, 1.0]]},
    ],
)
def test_what_cannot_be_compared_is_refused(values: dict[str, list[list[float]]]) -> None:
    with pytest.raises(DataError):
        reward_distances(values)
