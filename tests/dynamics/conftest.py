"""Tiny random models: one whose tokens are digits, one with a token per integer below 100."""

from __future__ import annotations

import pytest
from number_models import model_of

from posttrain.models.language_model import LanguageModel


@pytest.fixture(scope="session")
def digit_model() -> LanguageModel:
    return model_of([str(d) for d in range(10)], r"\d|,")


@pytest.fixture(scope="session")
def integer_model() -> LanguageModel:
    return model_of([f"{n:02d}" for n in range(100)], r"\d\d|,")
