"""A tiny model, alone or with adapters, and stages of a few rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stage_rows import ROWS

import posttrain as pt
from posttrain.models.language_model import LanguageModel
from posttrain.models.loaded import trained_weights
from posttrain.retentions.base import Stage


@pytest.fixture
def model(tiny_folder: Path) -> LanguageModel:
    return pt.load(str(tiny_folder), dtype="float32")


@pytest.fixture
def lora_model(tiny_folder: Path) -> LanguageModel:
    return pt.load(str(tiny_folder), dtype="float32", lora=pt.LoRA(r=2))


@pytest.fixture
def stage_of() -> Callable[..., Stage]:
    def make(model: LanguageModel, number: int = 1, **settings: Any) -> Stage:
        plans = [pt.sft(rows, batch_size=3, **settings) for rows in ROWS]
        start = {n: v.clone() for n, v in trained_weights(model).items()}
        return Stage(number, f"s{number}", plans[number], model, tuple(plans[:number]), 7, start)

    return make
