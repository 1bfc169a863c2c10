"""LanguageModel: the probe, padded rows, temperature, entropy, the reference."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from posttrain.config import LoraConfig
from posttrain.data.forest import Forest, TokenSequence
from posttrain.errors import ModelError
from posttrain.models.adapters import add_lora
from posttrain.models.language_model import LanguageModel

from .conftest import plain_logprobs, tiny_hf

Groups = list[list[TokenSequence]]
Make = Callable[..., LanguageModel]


def test_an_unknown_projection_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = LanguageModel(tiny_hf("Llama"), None)  # type: ignore[arg-type]
    plain = model.hf.forward

    def scaled(**inputs: object) -> object:
        output = plain(**inputs)
        output.logits = output.logits * 3
        return output

    monkeypatch.setattr(model.hf, "forward", scaled)
    with pytest.raises(ModelError, match="computes its logits"):
        model.check_head()


def test_temperature_and_entropy(tiny: Make, groups: Groups, forest: Forest) -> None:
    model = tiny("Gemma2")
    with torch.no_grad():
        found = model.forward(forest, {"logprobs", "entropy", "advantages"}, temperature=0.7)
        expected = plain_logprobs(tiny("Gemma2").hf, groups, temperature=0.7)
    assert found.keys() == {"logprobs", "entropy", "correct"}
    torch.testing.assert_close(found["logprobs"], expected, rtol=1e-5, atol=1e-5)
    assert (found["entropy"] >= 0).all()


def test_full_fine_tuning_keeps_a_frozen_copy_only_if_asked(tiny: Make, forest: Forest) -> None:
    model = tiny("Llama")
    with pytest.raises(ModelError, match="enable_reference"):
        model.forward(forest, ["ref_logprobs"])
    model.enable_reference()
    before = model.forward(forest)["logprobs"].detach()
    with torch.no_grad():
        for parameter in model.trainable_parameters():
            parameter.add_(0.01)
    found = model.forward(forest, ["logprobs", "ref_logprobs"])
    assert torch.equal(found["ref_logprobs"], before)
    assert not found["ref_logprobs"].requires_grad
    assert not torch.allclose(found["logprobs"], before)


def test_lora_reference_is_the_base(tiny: Make, forest: Forest) -> None:
    base = tiny("Llama").forward(forest)["logprobs"].detach()
    state = torch.get_rng_state()
    model = LanguageModel(add_lora(tiny_hf("Llama"), LoraConfig(r=4, dropout=0.5)), None)
    assert torch.equal(state, torch.get_rng_state())
    model.share_trunks()
    assert model.shares_trunks, model.why_unshared
    torch.testing.assert_close(model.forward(forest)["logprobs"], base)
    trained = model.trainable_parameters()
    assert sum(p.numel() for p in trained) < sum(p.numel() for p in model.hf.parameters()) / 2
    with torch.no_grad():
        for parameter in trained:
            parameter.add_(0.05)
    model.train()
    found = model.forward(forest, ["logprobs", "ref_logprobs"])
    torch.testing.assert_close(found["ref_logprobs"], base)
    assert model.hf.training and not torch.allclose(found["logprobs"], base)
    found["logprobs"].sum().backward()
    assert all(p.grad is not None for p in trained)
    assert model.head.weight.grad is None


def test_lora_is_told_about_wrong_targets() -> None:
    with pytest.raises(ModelError, match=r"'q_prj'.*did you mean 'q_proj'"):
        add_lora(tiny_hf("Llama"), LoraConfig(target_modules=["q_prj"]))
    with pytest.raises(ModelError, match="vocabulary projection"):
        add_lora(tiny_hf("Llama"), LoraConfig(target_modules=["q_proj", "lm_head"]))


def test_projection_trained_in_full_beside_adapters(
    tiny: Make, groups: Groups, forest: Forest
) -> None:
    settings = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])
    model = LanguageModel(add_lora(tiny_hf("Llama"), settings), None)  # type: ignore[arg-type]
    model.share_trunks()
    base = model.forward(forest)["logprobs"].detach()
    with torch.no_grad():
        model.head.weight.mul_(1.5)
    found = model.forward(forest, ["logprobs", "ref_logprobs"])
    torch.testing.assert_close(found["ref_logprobs"], base)
    torch.testing.assert_close(
        found["logprobs"], plain_logprobs(model.hf, groups), rtol=1e-5, atol=1e-5
    )
    found["logprobs"].sum().backward()
    assert model.head.weight.grad is not None
