"""LanguageModel: the probe, padded rows, temperature, entropy, the reference."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from posttrain.config import LoraConfig
from posttrain.data.forest import Forest, TokenSequence, Tree
from posttrain.errors import ModelError
from posttrain.models.adapters import add_lora
from posttrain.models.language_model import LanguageModel

from .conftest import UNSHARED, plain_logprobs, tiny_hf

Groups = list[list[TokenSequence]]
Make = Callable[..., LanguageModel]


@pytest.fixture
def forest(groups: Groups) -> Forest:
    return Forest.pack([Tree.build(group, min_shared=1) for group in groups])


@pytest.mark.parametrize("name", UNSHARED)
def test_models_that_cannot_share_are_found_and_run_as_rows(
    name: str, tiny: Make, groups: Groups, forest: Forest
) -> None:
    model = tiny(name, torch.float32)
    assert not model.shares_trunks
    assert model.why_unshared is not None and "\n" not in model.why_unshared
    logprobs = model.forward(forest)["logprobs"]
    logprobs.sum().backward()
    hf = tiny_hf(name, torch.float32)
    expected = plain_logprobs(hf, groups)
    expected.sum().backward()
    torch.testing.assert_close(logprobs, expected, rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(model.hf.parameters(), hf.parameters()):
        if theirs.grad is not None:
            torch.testing.assert_close(
                ours.grad, theirs.grad, rtol=1e-3, atol=1e-3 * float(theirs.grad.abs().max())
            )
    with pytest.raises(ModelError, match="cannot run a forest"):
        model.prefill(forest)


@pytest.mark.parametrize("name", ["Llama", "Gemma2", "GptOss"])
def test_rows_give_what_a_forest_gives(name: str, tiny: Make, forest: Forest) -> None:
    shared, apart = tiny(name, torch.float32), LanguageModel(tiny_hf(name, torch.float32), None)  # type: ignore[arg-type]
    apart.keep_unshared("asked for")
    assert not apart.shares_trunks and apart.why_unshared == "asked for"
    with torch.no_grad():
        a, b = (m.forward(forest, ["logprobs", "entropy"]) for m in (shared, apart))
        torch.testing.assert_close(
            shared.hidden(forest), apart.hidden(forest), rtol=1e-3, atol=1e-3
        )
    for name_ in ("logprobs", "entropy"):
        torch.testing.assert_close(a[name_], b[name_], rtol=1e-4, atol=1e-4)


def test_a_wrong_forest_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose positions are not what a forest passes (here: ignored) must not share."""
    model = LanguageModel(tiny_hf("Llama"), None)  # type: ignore[arg-type]
    plain = model.base.forward

    def forgetful(**inputs: object) -> object:
        inputs.pop("position_ids", None)
        return plain(**inputs)

    monkeypatch.setattr(model.base, "forward", forgetful)
    model.share_trunks()
    assert not model.shares_trunks
    assert "differs from plain forwards" in (model.why_unshared or "")


def test_the_probe_leaves_no_trace() -> None:
    model = LanguageModel(tiny_hf("GPT2").train(), None)  # type: ignore[arg-type]
    model.hf.transformer.ln_f.eval()
    before = torch.get_rng_state()
    model.check_head()
    model.share_trunks()
    assert model.shares_trunks
    assert torch.equal(before, torch.get_rng_state())
    assert (
        model.hf.training
        and model.hf.transformer.h.training
        and not model.hf.transformer.ln_f.training
    )
    assert all(p.grad is None for p in model.hf.parameters())


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
    model = LanguageModel(add_lora(tiny_hf("Llama"), LoraConfig(r=4, dropout=0.5)), None)  # type: ignore[arg-type]
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


def test_gradient_checkpointing_gives_the_same_gradient(tiny: Make, forest: Forest) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = tiny("Llama").train()
        if checkpointing:
            model.enable_gradient_checkpointing()
        model.forward(forest)["logprobs"].sum().backward()
        gradients.append([p.grad for p in model.hf.parameters()])
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b)
