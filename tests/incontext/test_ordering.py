"""Orders of demonstrations: entropies by hand, and which order they choose."""

from __future__ import annotations

import numpy as np
import pytest

from posttrain.errors import ConfigError
from posttrain.incontext.features import TextVectors
from posttrain.incontext.ordering import (
    as_selected,
    global_entropies,
    global_entropy,
    local_entropies,
    local_entropy,
    mdl,
    shuffled,
    similarity,
    tried_orders,
)
from posttrain.incontext.rows import Labelled

SHOTS = [Labelled(t, "a") for t in ("red apple", "sea", "apple pie")]
# Two orders, two probes, two labels: the first order always says 0, the second is split.
PROBABILITIES = np.array([[[0.9, 0.1], [0.6, 0.4]], [[0.9, 0.1], [0.1, 0.9]]])


def draw() -> np.random.Generator:
    return np.random.default_rng(0)


def test_entropies_by_hand() -> None:
    assert global_entropies(PROBABILITIES).tolist() == pytest.approx([0.0, np.log(2)])
    of = lambda p: -p * np.log(p) - (1 - p) * np.log(1 - p)  # noqa: E731
    assert local_entropies(PROBABILITIES).tolist() == pytest.approx(
        [(of(0.9) + of(0.6)) / 2, of(0.9)]
    )
    assert global_entropies(np.array([[[1.0, 0.0]]])).tolist() == [0.0]  # 0 log 0


def predict(orders: list[tuple[int, ...]], texts: list[str]) -> np.ndarray:
    """Sure where the first shot is last, unsure elsewhere; evenly split where it is first."""
    rows = []
    for order in orders:
        sure = 0.99 if order[-1] == 0 else 0.6
        labels = [(n % 2 if order[0] == 0 else 0) for n in range(len(texts))]
        rows.append([[sure, 1 - sure] if y == 0 else [1 - sure, sure] for y in labels])
    return np.array(rows)


def probes(number: int) -> list[str]:
    return ["p"] * number


def written(orders: list[tuple[int, ...]], number: int) -> list[str]:
    assert len(orders) == 6
    return ["w"] * number


def test_each_criterion_takes_its_order() -> None:
    assert global_entropy(SHOTS, predict, probes, written, draw(), num_probes=4)[0] == 0
    assert local_entropy(SHOTS, predict, probes, written, draw(), num_probes=4)[-1] != 0
    own = {"num_probes": 4, "generated": True}
    assert global_entropy(SHOTS, predict, lambda n: [], written, draw(), **own)[0] == 0
    assert mdl(SHOTS, "x", predict, draw())[-1] == 0


def test_similarity_puts_the_nearest_last() -> None:
    vectors = TextVectors([s.text for s in SHOTS])
    assert similarity(SHOTS, "an apple pie", vectors) == [1, 0, 2]


def test_plain_orders() -> None:
    assert as_selected(SHOTS) == [0, 1, 2]
    assert sorted(shuffled(SHOTS, draw())) == [0, 1, 2]


def test_orders_that_are_tried() -> None:
    assert len(set(tried_orders(3, 24, draw()))) == 6
    many = tried_orders(8, 10, draw())
    assert len(set(many)) == 10 and many[0] == tuple(range(8))
    assert len(tried_orders(40, 3, draw())) == 3
    with pytest.raises(ConfigError):
        tried_orders(3, 0, draw())
