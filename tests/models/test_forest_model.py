"""A model that runs forests: the probe, padded rows, modes and checkpointing."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import posttrain as pt
from posttrain.config import AdapterConfig, LoraConfig
from posttrain.data.forest import Forest, TokenSequence
from posttrain.errors import ModelError
from posttrain.models.forest_model import evaluating
from posttrain.models.language_model import LanguageModel
from posttrain.models.load import load_model

from .conftest import UNSHARED, plain_logprobs, tiny_hf

Groups = list[list[TokenSequence]]
Make = Callable[..., LanguageModel]


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
    with pytest.raises(ModelError, match="forest"):
        model.prefill(forest)


@pytest.mark.parametrize("name", ["Llama", "Gemma2", "GptOss"])
def test_rows_give_what_a_forest_gives(name: str, tiny: Make, forest: Forest) -> None:
    shared, apart = tiny(name, torch.float32), LanguageModel(tiny_hf(name, torch.float32), None)
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


def test_every_submodule_has_its_own_mode_back() -> None:
    module = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Dropout()).train()
    module[1].eval()
    with pytest.raises(ZeroDivisionError), evaluating(module):
        assert not any(m.training for m in module.modules())
        raise ZeroDivisionError
    assert [m.training for m in module.modules()] == [True, True, False]


def test_virtual_tokens_take_room_of_the_context(folder: Path) -> None:
    plain = load_model(folder, dtype="float32")
    prompted = load_model(
        folder, dtype="float32", adapter=AdapterConfig("prompt", num_virtual_tokens=5)
    )
    assert plain.num_virtual_tokens == 0 and prompted.num_virtual_tokens == 5
    assert plain.context_length is not None
    assert prompted.context_length == plain.context_length - 5
    prompted.virtual = None
    assert prompted.context_length == plain.context_length


def test_a_saved_model_is_loaded_with_the_same_numbers(folder: Path, tmp_path: Path) -> None:
    model = load_model(folder, dtype="float32")
    with torch.no_grad():
        for parameter in model.trainable_parameters():
            parameter.mul_(1.01)
    model.save(tmp_path / "saved" / "model")
    again = load_model(tmp_path / "saved" / "model", dtype="float32")
    pairs = zip(model.hf.parameters(), again.hf.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert again.tokenizer.chat_template == model.tokenizer.chat_template


def test_only_what_requires_gradients_is_trained(folder: Path) -> None:
    model = load_model(folder, dtype="float32", lora=LoraConfig(r=2))
    trained = model.trainable_parameters()
    assert trained and len(trained) < len(list(model.hf.parameters()))
    assert all(p.requires_grad for p in trained)
    assert not model.eval().hf.training and model.train().hf.training


def test_a_model_shows_itself_on_one_line() -> None:
    plain = repr(pt.load("embedded"))
    assert plain.startswith("LanguageModel(") and "parameters, float32" in plain
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)  # of a library, which users need not see
        adapted = repr(pt.load("embedded", lora=pt.LoRA(r=2)))
    assert "of them trained" in adapted and "\n" not in adapted and len(adapted) < 200
