"""Whitening, corrections, controllers and the tokens of steps, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from posttrain.advantages import shape


def test_steps_end_with_their_lines() -> None:
    texts = [" 1", "+1", "=2", "\n", "\n", "##", " 2", ""]
    got = shape.step_rewards(texts, [1.0, 0.5])
    assert [(t, x) for t, x in enumerate(got) if not math.isnan(x)] == [(3, 1.0), (7, 0.5)]
    assert np.nansum(shape.step_rewards(["a\nb\n", "c"], [1.0, 2.0, 4.0])) == 7.0
    assert np.isnan(shape.step_rewards([" ", "\n"], [1.0])).all()


def test_whitening_corrections_and_controllers() -> None:
    counted = [np.array([True, True]), np.array([True, False])]
    got = shape.whiten([np.array([1.0, 2.0]), np.array([3.0, 99.0])], counted)
    np.testing.assert_allclose(np.concatenate(got), [-1, 0, 1, 0], atol=1e-7)
    entropies, every = (
        [np.array([0.1, 0.9]), np.array([0.5, 0.7, 0.2])],
        [np.ones(2, dtype=bool), np.ones(3, dtype=bool)],
    )
    assert [list(k) for k in shape.top_entropy(entropies, every, 0.4)] == [
        [False, True],
        [False, True, False],
    ]
    # Tokens that are not trained take no place among the share.
    kept = shape.top_entropy(entropies, [np.zeros(2, dtype=bool), every[1]], 1 / 3)
    assert list(kept[1]) == [False, True, False]
    assert shape.next_kl_weight(0.1, 9.0, 6.0) == pytest.approx(
        0.1 * 1.02
    )  # the error is cut at 0.2
    assert shape.next_kl_weight(0.1, 5.4, 6.0) == pytest.approx(0.1 * 0.99)
    assert (
        shape.next_entropy_weight(0.0, 1.0, 0.5, 0.1) == 0
        and shape.next_entropy_weight(0.3, 0.1, 0.5, 0.1) == 0.4
    )
