"""The tiny models of the tests of dynamics."""

from __future__ import annotations

import pytest
from number_models import model_of

from posttrain.models.language_model import LanguageModel


@pytest.fixture(scope="session")
def integer_model() -> LanguageModel:
    return model_of([f"{n:02d}" for n in range(100)], r"\d\d|,")
