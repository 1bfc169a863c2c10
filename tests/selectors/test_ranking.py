"""Places by score, k-centres, and the check of what a selector returns."""

from __future__ import annotations

import numpy as np
import pytest

from posttrain.errors import ConfigError
from posttrain.selectors import ranking


def test_highest_keeps_the_order_of_ties_and_puts_nan_last() -> None:
    assert ranking.highest([0.5, np.nan, 2.0, 0.5], 4).tolist() == [2, 0, 3, 1]
    assert ranking.highest([1.0, 3.0], 1).tolist() == [1]


def test_entropy_of_a_coin_and_of_certainty() -> None:
    assert ranking.entropy_of([[0.5, 0.5], [1.0, 0.0]]) == pytest.approx([np.log(2), 0], abs=1e-9)


def test_farthest_first_against_brute_force() -> None:
    points = np.random.default_rng(0).normal(size=(20, 3))
    labelled = points[:2]
    nearest = np.min([ranking.squared_distances(points, row) for row in labelled], axis=0)
    chosen = ranking.farthest_first(
        lambda i: ranking.squared_distances(points, points[i]), nearest, 5, first=0
    ).tolist()
    centres = list(labelled)
    for place in chosen:
        gaps = [min(((p - c) ** 2).sum() for c in centres) for p in points]
        assert place == int(np.argmax(gaps))
        centres.append(points[place])


def test_farthest_first_takes_no_row_twice() -> None:
    same = np.zeros((4, 2))
    chosen = ranking.farthest_first(
        lambda i: ranking.squared_distances(same, same[i]), np.full(4, np.inf), 4, first=2
    )
    assert sorted(chosen.tolist()) == [0, 1, 2, 3] and chosen[0] == 2


@pytest.mark.parametrize("places", [[0, 0], [0, 1, 2], [5], [-1]])
def test_places_that_are_refused(places: list[int]) -> None:
    with pytest.raises(ConfigError):
        ranking.checked_places("mine", places, 4, 2)


def test_places_that_are_taken() -> None:
    assert ranking.checked_places("mine", np.array([3, 1]), 4, 2) == [3, 1]
    assert ranking.checked_pairs("mine", [[3, 0, 1]], 4, 2) == [[3, 0, 1]]


@pytest.mark.parametrize("pairs", [[[0, 1, 1]], [[0, 1]], [[7, 0, 1]]])
def test_pairs_that_are_refused(pairs: list[list[int]]) -> None:
    with pytest.raises(ConfigError):
        ranking.checked_pairs("mine", pairs, 4, 2)
