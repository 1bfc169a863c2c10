"""Measures of a model, on hand-worked numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from posttrain.qualities.likelihood import ask_llm, ifd, perplexity


def test_perplexity_is_the_exponential_of_the_mean() -> None:
    assert perplexity([0.0, math.log(8), math.nan])[:2] == pytest.approx([1, 8])


def test_ifd_is_the_loss_with_the_prompt_over_that_without() -> None:
    values = ifd([1.0, 3.0, 1.0, 1.0], [2.0, 2.0, math.nan, 0.0])
    assert values[:2] == pytest.approx([0.5, 1.5])
    assert np.isnan(values[2:]).all()


def test_ask_llm_is_the_probability_itself() -> None:
    assert ask_llm([0.25, 1]).tolist() == [0.25, 1.0]
