"""Joint training: from the start, on all stages so far."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from stage_rows import moved

from posttrain.models.language_model import LanguageModel
from posttrain.registry import retentions
from posttrain.retentions.base import source_of, trained_parameters


def test_it_starts_again_and_holds_a_batch_of_each_stage(
    model: LanguageModel, stage_of: Callable[..., Any]
) -> None:
    stage = stage_of(model, 2)
    moved(model, 0.1)
    plan = retentions.get("joint")().begin(stage)
    assert all(torch.equal(p, stage.start[n]) for n, p in trained_parameters(model).items())
    (batch,) = source_of(plan, model, 0).batches(0)
    assert batch.num_trees == 9


def test_the_first_stage_is_its_own(model: LanguageModel, stage_of: Callable[..., Any]) -> None:
    stage = stage_of(model, 0)
    assert retentions.get("joint")().begin(stage) is stage.plan
