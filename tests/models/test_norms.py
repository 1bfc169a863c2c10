"""RMS norms in fewer passes: the formula, its gradients, and which modules take that way."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from posttrain.models.norms import quicken_norms, rms_norm


def test_hand_worked_numbers() -> None:
    # mean(x^2) of (3, 4) is 12.5; with eps 12.5 the divisor is 5.
    found = rms_norm(torch.tensor([[3.0, 4.0]]), torch.tensor([1.0, 2.0]), 12.5)
    assert found.tolist() == [[pytest.approx(0.6), pytest.approx(1.6)]]


@pytest.mark.parametrize("shape", [(5, 6), (2, 3, 4, 6)])
def test_gradients_by_finite_differences(shape: tuple[int, ...]) -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(*shape, dtype=torch.float64, generator=draw, requires_grad=True)
    weight = torch.randn(6, dtype=torch.float64, generator=draw, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: rms_norm(a, b, 1e-3), (x, weight))


def test_a_quick_norm_gives_what_the_model_gave_and_survives_a_copy() -> None:
    torch.manual_seed(0)
    plain = Qwen3RMSNorm(16)
    with torch.no_grad():
        plain.weight.uniform_(0.5, 2)
    quick = copy.deepcopy(plain)
    assert quicken_norms(quick) == 1
    assert isinstance(quick, Qwen3RMSNorm) and list(quick.state_dict()) == list(plain.state_dict())
    x = torch.randn(7, 16)
    torch.testing.assert_close(quick(x), plain(x))
    moved = copy.deepcopy(quick)
    with torch.no_grad():
        moved.weight.zero_()
    assert not moved(x).any() and quick(x).any()
    half = x.bfloat16()
    assert torch.equal(quick.bfloat16()(half), plain.bfloat16()(half))


def test_norms_of_another_formula_are_left_alone() -> None:
    norm = GemmaRMSNorm(8)  # 1 + w
    assert quicken_norms(torch.nn.ModuleList([norm, torch.nn.LayerNorm(8)])) == 0
    assert type(norm) is GemmaRMSNorm
