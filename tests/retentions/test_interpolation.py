"""WiSE-FT: the ends, and a hand-worked middle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from stage_rows import moved

from posttrain.errors import ConfigError
from posttrain.models.language_model import LanguageModel
from posttrain.registry import retentions
from posttrain.retentions.base import trained_parameters


def after(
    model: LanguageModel, stage: Any, alpha: float, anchor: str
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Weights before the stage, as trained, and as left."""
    method = retentions.get("wise_ft")(alpha=alpha, anchor=anchor)
    method.begin(stage)
    before = {n: p.detach().clone() for n, p in trained_parameters(model).items()}
    moved(model, 0.1)
    trained = {n: p.detach().clone() for n, p in trained_parameters(model).items()}
    method.end(stage)
    return before, trained, trained_parameters(model)


def test_one_keeps_the_stage_bit_by_bit(model: LanguageModel, stage_of: Callable[..., Any]) -> None:
    _, trained, left = after(model, stage_of(model), 1.0, "stage")
    assert all(torch.equal(trained[n], left[n]) for n in left)


@pytest.mark.parametrize("anchor", ["stage", "start"])
def test_zero_is_the_anchor(
    model: LanguageModel, stage_of: Callable[..., Any], anchor: str
) -> None:
    stage = stage_of(model)
    moved(model, 0.1, seed=4)  # so that the stage does not begin at the start
    before, _, left = after(model, stage, 0.0, anchor)
    expected = before if anchor == "stage" else stage.start
    assert all(torch.equal(expected[n], left[n]) for n in left)


def test_between_them_it_is_linear(model: LanguageModel, stage_of: Callable[..., Any]) -> None:
    before, trained, left = after(model, stage_of(model), 0.25, "stage")
    for n in left:
        torch.testing.assert_close(left[n], 0.75 * before[n] + 0.25 * trained[n])


@pytest.mark.parametrize("settings", [{"alpha": 1.5}, {"alpha": -0.1}, {"anchor": "end"}])
def test_wrong_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        retentions.get("wise_ft")(**settings)
