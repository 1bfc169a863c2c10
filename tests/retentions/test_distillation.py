"""LwF: one more loss, the divergence from the model as the stage began."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from stage_rows import ROWS, moved

import posttrain as pt
from posttrain.errors import ConfigError
from posttrain.models.language_model import LanguageModel
from posttrain.registry import retentions


def test_it_is_the_divergence_from_the_old_model(
    model: LanguageModel, stage_of: Callable[..., Any]
) -> None:
    plan = retentions.get("lwf")(weight=2.0).begin(stage_of(model, 1))
    assert [(t.name, t.weight) for t in plan.objective.terms] == [("nll", 1.0), ("teacher_kl", 2.0)]
    old = plan.teacher.load()
    moved(model, 0.05)
    model.teacher = old
    from posttrain.retentions.base import source_of

    (batch,) = source_of(pt.sft(ROWS[1], batch_size=3), model, 0).batches(0)
    (micro,) = batch.split(None)
    totals = plan.objective.denominators(batch)
    outputs = model.forward(micro, plan.objective.needs)
    _, metrics = plan.objective(outputs, micro, totals)
    kls = []
    for tree in batch.trees:
        for sequence in tree.sequences:
            ids = torch.tensor(sequence.ids)[None]
            with torch.no_grad():
                p = torch.log_softmax(model.hf(input_ids=ids).logits[0].double(), -1)
                q = torch.log_softmax(old.hf(input_ids=ids).logits[0].double(), -1)
            places = torch.tensor(sequence.loss_mask).nonzero()[:, 0] - 1
            kls.append((q.exp() * (q - p)).sum(-1)[places])
    assert metrics.means()["loss/teacher_kl"] == pytest.approx(
        float(torch.cat(kls).mean()), rel=1e-3
    )


def test_the_old_model_does_not_move_with_the_new_one(
    model: LanguageModel, stage_of: Callable[..., Any]
) -> None:
    plan = retentions.get("lwf")().begin(stage_of(model, 1, learning_rate=1e-2))
    before = [p.clone() for p in plan.teacher.load().hf.parameters()]
    pt.fit(model, plan, steps=2)
    assert all(
        torch.equal(a, b) for a, b in zip(before, plan.teacher.load().hf.parameters(), strict=True)
    )


def test_the_first_stage_has_nothing_to_keep(
    model: LanguageModel, stage_of: Callable[..., Any]
) -> None:
    stage = stage_of(model, 0)
    assert retentions.get("lwf")().begin(stage) is stage.plan


@pytest.mark.parametrize("settings", [{"weight": -1.0}, {"temperature": 0.0}])
def test_wrong_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        retentions.get("lwf")(**settings)
