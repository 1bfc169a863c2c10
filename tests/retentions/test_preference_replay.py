"""COPR: targets of earlier stages, the constraint in float64, one size of buffer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from stage_rows import moved

import posttrain as pt
from posttrain.errors import ConfigError
from posttrain.models.language_model import LanguageModel
from posttrain.models.loaded import trained_weights
from posttrain.registry import retentions
from posttrain.retentions.base import Stage, trained_parameters
from posttrain.retentions.preference_replay import PreferenceReplay
from posttrain.training.plan import Learner

PAIRS = [
    [{"prompt": f"{i}?", "chosen": "yes", "rejected": "no no"} for i in range(6)],
    [{"prompt": f"{i}!", "chosen": "no", "rejected": "yes"} for i in range(5)],
    [{"prompt": f"a{i}", "chosen": "b", "rejected": "cc"} for i in range(4)],
]


def stage_of(model: LanguageModel, number: int, **settings: Any) -> Stage:
    plans = [pt.dpo(rows, batch_size=3, **settings) for rows in PAIRS]
    start = trained_weights(model)
    return Stage(number, f"s{number}", plans[number], model, tuple(plans[:number]), 5, start)


def odds(model: LanguageModel, method: PreferenceReplay) -> torch.Tensor:
    """log pi(chosen) - log pi(rejected) of the buffer by plain forwards."""
    values = []
    for pair in method.buffer:
        sums = []
        for row in pair.rows:
            ids = torch.from_numpy(row.ids)
            logprobs = torch.log_softmax(model.hf(input_ids=ids[None]).logits[0].double(), -1)
            places = torch.from_numpy(row.loss_mask).nonzero()[:, 0]
            sums.append(logprobs[places - 1, ids[places]].sum())
        values.append(sums[0] - sums[1])
    return torch.stack(values)


def test_targets_are_those_of_the_model_as_the_stage_began(model: LanguageModel) -> None:
    method = retentions.get("copr")(beta=0.5)
    stage = stage_of(model, 0)
    assert method.begin(stage) is stage.plan
    method.end(stage)
    assert len(method.buffer) == 6
    with torch.no_grad():
        expected = odds(model, method) + 2.0
    for pair, target in zip(method.buffer, expected.tolist(), strict=True):
        assert pair.target == pytest.approx(target, rel=1e-4, abs=1e-4)


def test_the_constraint_and_its_gradient(model: LanguageModel) -> None:
    method = retentions.get("copr")(weight=3.0, beta=0.5, batch_size=99)
    method.begin(stage_of(model, 0))
    method.end(stage_of(model, 0))
    moved(model, 0.05)
    (rule,) = method.begin(stage_of(model, 1)).rules
    parameters = list(trained_parameters(model).values())
    d = odds(model, method)
    z = torch.tensor([pair.target for pair in method.buffer], dtype=torch.float64)
    p, q = d.sigmoid(), z.sigmoid()
    kl = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean()
    wanted = torch.autograd.grad(3.0 * kl, parameters, allow_unused=True)
    for parameter in parameters:
        parameter.grad = None
    value = rule(Learner(model, None, 64), 0).means()["loss"]
    assert value == pytest.approx(3.0 * float(kl.detach()), rel=1e-3)
    for parameter, gradient in zip(parameters, wanted, strict=True):
        if gradient is not None:
            torch.testing.assert_close(parameter.grad, gradient.float(), rtol=1e-2, atol=1e-3)


def test_at_the_optimum_there_is_nothing_to_do(model: LanguageModel) -> None:
    method = retentions.get("copr")(beta=1e12)
    method.begin(stage_of(model, 0))
    method.end(stage_of(model, 0))
    (rule,) = method.begin(stage_of(model, 1)).rules
    for parameter in model.trainable_parameters():
        parameter.grad = None
    assert rule(Learner(model, None, 64), 0).means()["loss"] == pytest.approx(0.0, abs=1e-8)
    sizes = [float(p.grad.abs().max()) for p in model.trainable_parameters() if p.grad is not None]
    assert max(sizes) < 1e-4


def test_stages_are_trained_and_the_buffer_has_one_size(model: LanguageModel) -> None:
    method = retentions.get("copr")(buffer_size=6, batch_size=2)
    for number in range(3):
        stage = stage_of(model, number, losses=["copr"], learning_rate=1e-3)
        pt.fit(model, method.begin(stage), steps=1)
        method.end(stage)
    assert [pair.stage for pair in method.buffer] == [0, 0, 1, 1, 2, 2]
    again = retentions.get("copr")()
    again.load_state(method.state())
    for a, b in zip(again.buffer, method.buffer, strict=True):
        assert (a.stage, a.target) == (b.stage, b.target)
        assert all((x.ids == y.ids).all() for x, y in zip(a.rows, b.rows, strict=True))


def test_what_it_cannot_hold_is_refused(model: LanguageModel) -> None:
    plan = pt.sft([{"prompt": "a", "completion": "b"}])
    with pytest.raises(ConfigError):
        retentions.get("copr")().begin(Stage(0, "a", plan, model, (), 0, {}))
    for settings in ({"weight": -1.0}, {"beta": 0.0}, {"batch_size": 0}, {"buffer_size": 0}):
        with pytest.raises(ConfigError):
            retentions.get("copr")(**settings)
