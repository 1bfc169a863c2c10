"""A loss on rows in one call."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from posttrain import registry
from posttrain.errors import ConfigError, DataError
from posttrain.losses.preference import dpo
from posttrain.models.language_model import LanguageModel
from posttrain.models.load import load_model
from posttrain.training.inspection import compute_loss

PAIRS = [
    {"prompt": "2+2=", "chosen": " 4", "rejected": " 5"},
    {"prompt": "3+4=", "chosen": " 7", "rejected": " 12"},
]
LABELLED = [
    {"prompt": "2+2=", "completion": " 4", "label": True},
    {"prompt": "3+4=", "completion": " 12", "label": False},
]
COMPLETIONS = [
    {"prompt": "2+2=", "completion": " 4", "reward": 1.0, "advantage": 0.5},
    {"prompt": "3+4=", "completion": " 12", "reward": 0.0, "advantage": -2.0},
]
LISTS = [{"prompt": "2+2=", "completions": [" 4", " 5", " 66"], "rewards": [1.0, 0.0, 0.0]}]


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> LanguageModel:
    return load_model(str(tiny_folder), dtype="float32")


@pytest.fixture(scope="module")
def other(tiny_folder: Path) -> LanguageModel:
    """Another model with the same tokenizer."""
    reference = load_model(str(tiny_folder), dtype="float32")
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in reference.hf.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return reference


def logprob(model: LanguageModel, prompt: str, completion: str) -> float:
    """By the likelihood of the completion."""
    result = compute_loss(model, {"prompt": prompt, "completion": completion}, "nll")
    return -float(result.values.sum())


def test_dpo_on_two_texts_is_one_call(model: LanguageModel, other: LanguageModel) -> None:
    result = compute_loss(model, PAIRS[0], "dpo")
    assert float(result.loss) == pytest.approx(math.log(2), abs=1e-6)
    result = compute_loss(model, PAIRS, "dpo", reference=other, beta=0.3)
    for value, row in zip(result.values, PAIRS):
        numbers = {
            f"{form}{role}": torch.tensor([logprob(m, row["prompt"], row[role])])
            for form, m in (("", model), ("ref_", other))
            for role in ("chosen", "rejected")
        }
        by_hand, _ = dpo(
            numbers["chosen"],
            numbers["rejected"],
            numbers["ref_chosen"],
            numbers["ref_rejected"],
            beta=0.3,
        )
        assert float(value) == pytest.approx(float(by_hand), abs=1e-5)
    assert float(result.loss) == pytest.approx(float(result.values.mean()), abs=1e-6)
    assert "rewards/margins" in result.metrics


def test_the_loss_has_the_gradient_of_training(model: LanguageModel) -> None:
    (weight,) = [p for n, p in model.hf.named_parameters() if n.endswith("0.mlp.down_proj.weight")]
    (gradient,) = torch.autograd.grad(compute_loss(model, PAIRS, "dpo").loss, weight)
    assert gradient.abs().max() > 0


@pytest.mark.parametrize(
    ("loss", "rows", "shape"),
    [
        ("nll", "2+2= 4", None),
        ("label_smoothing", COMPLETIONS, None),
        ("clipped", COMPLETIONS, None),
        ("gmpo", COMPLETIONS, 2),
        ("apo_zero_unpaired", LABELLED, 2),
        ("kto", LABELLED, 2),
        ("bco", LABELLED, 2),
        ("simpo", PAIRS, 2),
        ("aot", PAIRS, 2),
        ("rrhf", LISTS, 1),
        ("plackett_luce_dpo", LISTS, 1),
    ],
)
def test_each_kind_of_rows(
    model: LanguageModel, other: LanguageModel, loss: str, rows: object, shape: int | None
) -> None:
    reads_reference = any("ref" in name for name in registry.losses.entry(loss).inputs)
    result = compute_loss(model, rows, loss, reference=other if reads_reference else None)
    assert torch.isfinite(result.values).all()
    assert result.values.shape == (len(result.target) if shape is None else shape,)


def test_advantages_are_those_of_the_rows(model: LanguageModel) -> None:
    result = compute_loss(model, COMPLETIONS, "clipped")
    expected = torch.tensor([-0.5, 2.0])[result.sequence]
    assert torch.allclose(result.values.detach(), expected)


def test_kto_compares_with_another_model(model: LanguageModel, other: LanguageModel) -> None:
    same = compute_loss(model, LABELLED, "kto")
    assert same.values.tolist() == pytest.approx([0.5, 0.5], abs=1e-6)
    assert compute_loss(model, LABELLED, "kto", reference=other).values[0] != same.values[0]


def test_a_declared_function_is_a_loss(model: LanguageModel) -> None:
    double = registry.losses.register(per="token")(lambda logprobs, *, by=2.0: -by * logprobs)
    nll = compute_loss(model, COMPLETIONS, "nll")
    assert torch.equal(compute_loss(model, COMPLETIONS, double).values, 2 * nll.values)
    assert torch.equal(compute_loss(model, COMPLETIONS, double, by=3).values, 3 * nll.values)


@pytest.mark.parametrize(
    ("rows", "loss", "settings", "error", "named"),
    [
        (PAIRS, "dppo_", {}, ConfigError, "dppo_"),
        (PAIRS, "dpo", {"betta": 1}, ConfigError, "betta"),
        (PAIRS, "odpo", {}, ConfigError, "margin"),
        (PAIRS, "bradley_terry", {}, ConfigError, "scores"),
        (COMPLETIONS[0], "opsm", {}, ConfigError, "engine_logprobs"),
        (COMPLETIONS, "dpo", {}, DataError, "chosen"),
        ([], "nll", {}, ConfigError, "rows"),
    ],
)
def test_what_cannot_be_computed_is_refused(
    model: LanguageModel,
    rows: object,
    loss: str,
    settings: dict[str, float],
    error: type[Exception],
    named: str,
) -> None:
    with pytest.raises(error, match=named):
        compute_loss(model, rows, loss, **settings)  # type: ignore[arg-type]
