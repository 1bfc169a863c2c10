"""Calibrations: numbers by hand and identities."""

from __future__ import annotations

import numpy as np
import pytest

from posttrain.errors import ConfigError
from posttrain.incontext.calibration import (
    BLANK_TEXTS,
    batch,
    contextual,
    divided,
    domain,
    mean_prediction,
    random_texts,
)
from posttrain.incontext.rows import Labelled

LOGS = np.log([[0.6, 0.4], [0.9, 0.1]])
POOL = [Labelled("one two three", "a"), Labelled("four", "b")]


def blank(texts: list[str]) -> np.ndarray:
    """Of "" the prompt says .5, .5, of all else .9, .1: the same for both questions."""
    rows = [[0.5, 0.5] if text == "" else [0.9, 0.1] for text in texts]
    return np.log(np.array([rows, rows]))


def test_contextual_calibration_by_hand() -> None:
    # b = (.9 + .9 + .5) / 3 = .76667, .23333; .6 / b : .4 / b = .78261 : 1.71429
    found = np.exp(contextual(LOGS, blank))
    assert found[0] == pytest.approx([0.313433, 0.686567], abs=1e-6)
    assert found.sum(axis=1) == pytest.approx([1, 1])
    # In place of the question itself, what has no content gets even probabilities.
    own = contextual(blank(["x"])[:, 0], blank, texts=["x"])
    assert np.exp(own) == pytest.approx(np.full((2, 2), 0.5))
    with pytest.raises(ConfigError):
        contextual(LOGS, blank, texts=[])


def test_domain_calibration_by_hand() -> None:
    asked: list[str] = []

    def listening(texts: list[str]) -> np.ndarray:
        asked.extend(texts)
        return blank(texts)

    found = np.exp(domain(LOGS, listening, POOL, np.random.default_rng(0), num_texts=5))
    assert found[1] == pytest.approx([0.5, 0.5])  # .9, .1 is what random words give
    assert found[0] == pytest.approx([1 / 7, 6 / 7])  # .6/.9 : .4/.1
    assert len(asked) == 5 and all(len(text.split()) == 2 for text in asked)
    assert {w for text in asked for w in text.split()} <= {"one", "two", "three", "four"}
    with pytest.raises(ConfigError):
        domain(LOGS, blank, POOL, np.random.default_rng(0), num_texts=0)


def test_batch_calibration_by_hand() -> None:
    # b = .75, .25; .6/.75 : .4/.25 = .8 : 1.6 and .9/.75 : .1/.25 = 1.2 : .4
    assert np.exp(batch(LOGS)) == pytest.approx(np.array([[1 / 3, 2 / 3], [0.75, 0.25]]))
    # Questions that are all answered alike carry no information.
    assert np.exp(batch(np.log([[0.9, 0.1]] * 3))) == pytest.approx(np.full((3, 2), 0.5))
    even = np.log([[0.7, 0.3], [0.3, 0.7]])
    assert batch(even) == pytest.approx(even)  # without bias nothing changes


def test_dividing_by_an_even_bias_changes_nothing() -> None:
    assert divided(LOGS, np.log([[0.5, 0.5]])) == pytest.approx(LOGS)
    assert np.exp(mean_prediction(blank(list(BLANK_TEXTS)))[0]) == pytest.approx([23 / 30, 7 / 30])


def test_random_texts_need_words() -> None:
    with pytest.raises(ConfigError):
        random_texts(["", "!"], 2, np.random.default_rng(0))
