"""LESS by hand."""

from __future__ import annotations

from posttrain.selectors.influence import less


def test_less_follows_the_direction_and_not_the_length() -> None:
    gradients = [[100.0, 0.0], [0.1, 0.1], [0.0, 1.0]]
    assert less(gradients, [[0.0, 3.0]], 3).tolist() == [2, 1, 0]


def test_less_over_two_targets() -> None:
    # cosines with (1, 0) and (0, 1): (1, 0), (.71, .71), (0, 1): means .5, .71, .5.
    gradients, targets = [[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]], [[1.0, 0.0], [0.0, 1.0]]
    assert less(gradients, targets, 1).tolist() == [1]
    assert less(gradients, targets, 1, over="max").tolist() == [0]
