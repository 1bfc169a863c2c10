"""DER: nothing to do where the model is that of the buffer; distance and gradient in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from stage_rows import ROWS, moved

import posttrain as pt
from posttrain.errors import ConfigError
from posttrain.models.language_model import LanguageModel
from posttrain.registry import retentions
from posttrain.retentions.base import source_of, trained_parameters
from posttrain.retentions.logit_replay import LogitReplay, distinct
from posttrain.training.plan import Learner


def gradients(method: LogitReplay, model: LanguageModel) -> tuple[dict[str, float], float]:
    """The metrics of the rule, and the norm of the gradient that it adds."""
    for p in model.trainable_parameters():
        p.grad = None
    metrics = method.rehearse(Learner(model, None, 64), 0).means()
    squares = [float(p.grad.double().square().sum()) for p in model.trainable_parameters()]
    return metrics, sum(squares) ** 0.5


@pytest.mark.parametrize("top_k", [0, 5])
def test_the_model_of_the_buffer_has_neither_loss_nor_gradient(
    model: LanguageModel, stage_of: Callable[..., Any], top_k: int
) -> None:
    method = retentions.get("der")(batch_size=3, top_k=top_k)
    first = stage_of(model, 0)
    assert method.begin(first) is first.plan
    method.end(stage_of(model, 0))
    metrics, norm = gradients(method, model)
    assert metrics["loss"] < 1e-10 and norm < 1e-5
    moved(model, 0.05)
    metrics, norm = gradients(method, model)
    assert metrics["loss"] > 1e-4 and norm > 1e-3


def reference(method: LogitReplay, model: LanguageModel, rows: list[Any]) -> torch.Tensor:
    """The mean over targets of the distance, by plain forwards in float64."""
    values = []
    for row in rows:
        logits = model.hf(input_ids=row.ids[None]).logits[0].double()
        places = row.loss_mask.nonzero()[:, 0] - 1
        logprobs = torch.log_softmax(logits, -1)[places]
        held = logprobs.gather(-1, row.tokens) if method.top_k else logprobs
        values.append(((held - row.logprobs.double()) ** 2).mean(-1))
    return torch.cat(values).mean()


@pytest.mark.parametrize("top_k", [0, 5])
def test_distance_and_gradient(
    model: LanguageModel, stage_of: Callable[..., Any], top_k: int
) -> None:
    method = retentions.get("der")(alpha=2.0, batch_size=99, top_k=top_k)
    method.end(stage_of(model, 0))
    moved(model, 0.05)
    parameters = list(trained_parameters(model).values())
    expected = reference(method, model, method.buffer)
    wanted = torch.autograd.grad(2.0 * expected, parameters, allow_unused=True)
    metrics, _ = gradients(method, model)
    assert metrics["der/distance"] == pytest.approx(float(expected.detach()), rel=1e-3)
    assert metrics["loss"] == pytest.approx(2 * float(expected.detach()), rel=1e-3)
    for p, gradient in zip(parameters, wanted, strict=True):
        if gradient is not None:
            torch.testing.assert_close(p.grad, gradient.float(), rtol=1e-2, atol=1e-4)


def test_der_plus_plus_adds_the_rows_own_loss(
    model: LanguageModel, stage_of: Callable[..., Any]
) -> None:
    method = retentions.get("der_plus_plus")(alpha=0.0, beta=0.5, batch_size=99)
    method.end(stage_of(model, 0))
    metrics, _ = gradients(method, model)
    source = source_of(pt.sft(ROWS[0], batch_size=6), model, 0)
    (batch,) = source.batches(0)
    total = sum(
        float(model.forward(micro, frozenset({"logprobs"}))["logprobs"].detach().sum())
        for micro in batch.split(None)
    )
    assert metrics["loss"] == pytest.approx(-0.5 * total / batch.num_targets, rel=1e-4)


def test_the_buffer_has_one_size_over_all_stages(
    model: LanguageModel, stage_of: Callable[..., Any]
) -> None:
    method = retentions.get("der")(buffer_size=6, top_k=2)
    sizes = []
    for number in range(3):
        method.end(stage_of(model, number))
        sizes.append([row.stage for row in method.buffer])
    assert sizes == [[0] * 6, [0] * 3 + [1] * 3, [0, 0, 1, 1, 2, 2]]
    assert all(row.logprobs.shape[1] == 2 for row in method.buffer)


def test_rows_are_held_once(model: LanguageModel) -> None:
    source = source_of(pt.sft(ROWS[0], batch_size=4), model, 0)
    batches = (batch for step in range(9) for batch in source.batches(step))
    assert len(distinct(batches, 50)) <= 6


def test_training_keeps_the_old_distributions(
    model: LanguageModel, stage_of: Callable[..., Any]
) -> None:
    def distance(alpha: float) -> float:
        fresh = pt.load(model.origin.path, dtype="float32")
        method = retentions.get("der")(alpha=alpha, batch_size=6)
        method.end(stage_of(fresh, 0))
        plan = method.begin(stage_of(fresh, 1, learning_rate=1e-2))
        pt.fit(fresh, plan, steps=8)
        return float(reference(method, fresh, method.buffer).detach())

    assert distance(5.0) < 0.5 * distance(0.0)


def test_the_state_is_the_buffer(model: LanguageModel, stage_of: Callable[..., Any]) -> None:
    method = retentions.get("der")(buffer_size=4, top_k=3)
    method.end(stage_of(model, 0))
    again = retentions.get("der")()
    again.load_state(method.state())
    assert len(again.buffer) == 4
    for a, b in zip(again.buffer, method.buffer, strict=True):
        assert a.stage == b.stage
        for name in ("ids", "loss_mask", "tokens", "logprobs"):
            assert torch.equal(getattr(a, name), getattr(b, name))


def test_rejected_completions_are_not_imitated(
    model: LanguageModel, stage_of: Callable[..., Any]
) -> None:
    pairs = [{"prompt": f"{i}?", "chosen": "yes", "rejected": "no"} for i in range(4)]
    stage = replace(stage_of(model, 0), plan=pt.dpo(pairs, batch_size=2))
    with pytest.raises(ConfigError):
        retentions.get("der_plus_plus")().begin(stage)
    method = retentions.get("der")(top_k=2)
    assert method.begin(stage) is stage.plan
    method.end(stage)
    assert len(method.buffer) == 8


@pytest.mark.parametrize(
    "settings",
    [{"alpha": -1.0}, {"batch_size": 0}, {"buffer_size": 0}, {"top_k": -1}],
)
def test_wrong_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        retentions.get("der")(**settings)
    with pytest.raises(ConfigError):
        retentions.get("der_plus_plus")(beta=-0.1)
