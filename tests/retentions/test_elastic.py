"""EWC: Fisher information, penalty and gradient against references; one form for many stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from stage_rows import ROWS, moved

import posttrain as pt
from posttrain.data.forest import Batch
from posttrain.errors import ConfigError
from posttrain.models.language_model import LanguageModel
from posttrain.registry import retentions
from posttrain.retentions.base import source_of, trained_parameters
from posttrain.retentions.elastic import Elastic, diagonal_fisher
from posttrain.training.plan import Learner


def batches(model: LanguageModel) -> Iterator[Batch]:
    source = source_of(pt.sft(ROWS[0], batch_size=4), model, 0)
    for step in range(2):
        yield from source.batches(step)


def test_the_fisher_information_is_the_mean_square_of_single_gradients(
    model: LanguageModel,
) -> None:
    ours = diagonal_fisher(model, batches(model), 5)
    sequences = [s for b in batches(model) for t in b.trees for s in t.sequences][:5]
    sums = {
        n: torch.zeros_like(p, dtype=torch.float64) for n, p in trained_parameters(model).items()
    }
    for sequence in sequences:
        ids = torch.tensor(sequence.ids)[None]
        logprobs = torch.log_softmax(model.hf(input_ids=ids).logits[0].float(), -1)
        places = torch.tensor(sequence.loss_mask).nonzero()[:, 0]
        total = sum(logprobs[t - 1, ids[0, t]] for t in places)
        parameters = list(trained_parameters(model).values())
        for name, g in zip(
            sums, torch.autograd.grad(total, parameters, allow_unused=True), strict=True
        ):
            if g is not None:
                sums[name] += g.double() ** 2
    for name, value in sums.items():
        torch.testing.assert_close(
            ours[name].double(), value / 5, rtol=2e-3, atol=float(value.max()) * 1e-4 + 1e-12
        )


def test_gradients_that_are_there_are_not_disturbed_by_a_later_stage(
    model: LanguageModel,
) -> None:
    diagonal_fisher(model, batches(model), 2)
    assert all(p.grad is None for p in model.trainable_parameters())


def form(model: LanguageModel, stages: list[tuple[Any, Any]], weight: float) -> tuple[float, Any]:
    """weight / 2 sum_k F_k (theta - theta_k)^2 and its gradient, in float64."""
    leaves = {n: p.detach().double().requires_grad_() for n, p in trained_parameters(model).items()}
    value = sum(
        (weight / 2 * fisher[n].double() * (leaf - center[n].double()) ** 2).sum()
        for fisher, center in stages
        for n, leaf in leaves.items()
    )
    return float(value.detach()), torch.autograd.grad(value, list(leaves.values()))


def test_many_stages_are_one_form(model: LanguageModel) -> None:
    method = Elastic(30.0, None, 1)
    stages = []
    for k in range(3):
        moved(model, 0.05, seed=k)
        fisher = {
            n: torch.rand(p.shape, generator=torch.Generator().manual_seed(9 + k)) ** 4
            for n, p in trained_parameters(model).items()
        }
        fisher = {n: torch.where(f < 0.01, 0.0, f) for n, f in fisher.items()}
        center = {n: p.detach().clone() for n, p in trained_parameters(model).items()}
        stages.append((fisher, center))
        for n in fisher:
            method._add(n, fisher[n], center[n])
    moved(model, 0.05, seed=8)
    value, gradients = form(model, stages, 30.0)
    for p in model.trainable_parameters():
        p.grad = torch.full_like(p, 0.5)
    metrics = method.hold(Learner(model, None, 99), 0)
    assert metrics.means()["penalty/elastic"] == pytest.approx(value, rel=1e-4)
    assert metrics.means()["loss"] == pytest.approx(value, rel=1e-4)
    for p, gradient in zip(trained_parameters(model).values(), gradients, strict=True):
        assert p.grad is not None
        torch.testing.assert_close((p.grad - 0.5).double(), gradient, rtol=1e-3, atol=1e-4)


def test_a_hand_worked_number() -> None:
    """F = 2 around 1 and F = 6 around 5: at 3 the form is 2 * 4 + 6 * 4 = 32."""
    method = Elastic(1.0, None, 1)
    for fisher, center in ((2.0, 1.0), (6.0, 5.0)):
        method._add("w", torch.tensor([fisher]), torch.tensor([center]))
    assert float(method.importance["w"]) == 8.0
    assert float(method.center["w"]) == 4.0
    assert 8.0 * (3.0 - 4.0) ** 2 + method.rest == pytest.approx(32.0)


def test_online_forms_decay(model: LanguageModel) -> None:
    method = Elastic(1.0, 0.5, 1)
    for fisher, center in ((2.0, 1.0), (6.0, 5.0)):
        method._add("w", torch.tensor([fisher]), torch.tensor([center]))
    assert float(method.importance["w"]) == 7.0
    assert float(method.center["w"]) == 5.0


def test_state_survives_a_round_trip(model: LanguageModel, stage_of: Callable[..., Any]) -> None:
    method = retentions.get("ewc")(num_sequences=3)
    method.end(stage_of(model, 0))
    moved(model)
    method.end(stage_of(model, 1))
    again = retentions.get("ewc")()
    again.load_state(method.state())
    assert again.rest == method.rest > 0
    for name, value in method.center.items():
        assert torch.equal(again.center[name], value)
        assert torch.equal(again.importance[name], method.importance[name])


def test_weights_stay_where_they_matter(model: LanguageModel, stage_of: Callable[..., Any]) -> None:
    """With a huge weight the trained model is the anchor; with none it moves as without."""
    method = retentions.get("l2_to_stages")(weight=1e3)
    method.end(stage_of(model, 0))
    before = {n: p.detach().clone() for n, p in trained_parameters(model).items()}
    plan = method.begin(stage_of(model, 1, learning_rate=1e-3))
    pt.fit(model, plan, steps=4)
    held = max(float((p - before[n]).abs().max()) for n, p in trained_parameters(model).items())
    free = retentions.get("l2_to_stages")(weight=0.0)
    free.end(stage_of(model, 0))
    pt.fit(model, free.begin(stage_of(model, 1, learning_rate=1e-3)), steps=4)
    moved_by = max(float((p - before[n]).abs().max()) for n, p in trained_parameters(model).items())
    assert moved_by > 1.5 * held


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ewc", {"weight": -1.0}),
        ("ewc", {"decay": 1.5}),
        ("ewc", {"num_sequences": 0}),
        ("l2_to_stages", {"weight": -1.0}),
    ],
)
def test_wrong_settings_are_refused(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        retentions.get(name)(**settings)
