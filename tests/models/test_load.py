"""Loading: real folders, adapters, random weights, and errors before weights load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from posttrain.config import LoraConfig
from posttrain.data.forest import Forest, TokenSequence, Tree
from posttrain.errors import ModelError
from posttrain.models.load import load_model, load_tokenizer

from .conftest import plain_logprobs

Groups = list[list[TokenSequence]]


def pack(groups: Groups) -> Forest:
    return Forest.pack([Tree.build(group, min_shared=1) for group in groups])


def edit_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_a_real_model(stories: Path, groups: Groups) -> None:
    state = torch.get_rng_state()
    model = load_model(stories)
    assert torch.equal(state, torch.get_rng_state())
    assert model.shares_trunks, model.why_unshared
    assert model.context_length == 512 and model.weights_version == 0 and not model.hf.training
    with torch.no_grad():
        found = model.forward(pack(groups))["logprobs"]
        expected = plain_logprobs(AutoModelForCausalLM.from_pretrained(stories), groups)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_saved_model_loads_everywhere(folder: Path, tmp_path: Path, groups: Groups) -> None:
    groups = [[s for s in g if s.ids.max() < 50] for g in groups]
    model = load_model(folder, dtype="float32", attention="forest")
    with torch.no_grad():
        next(iter(model.trainable_parameters())).add_(0.1)
    model.save(tmp_path / "out")
    assert load_tokenizer(tmp_path / "out").chat_template == model.tokenizer.chat_template
    again = load_model(tmp_path / "out")
    hf = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    for ours, theirs, first in zip(again.hf.parameters(), hf.parameters(), model.hf.parameters()):
        assert torch.equal(ours, theirs) and torch.equal(ours, first)
    assert (
        AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab() == model.tokenizer.get_vocab()
    )


def test_adapters_save_and_load(folder: Path, tmp_path: Path, groups: Groups) -> None:
    model = load_model(folder, lora=LoraConfig(r=2), seed=3)
    with torch.no_grad():
        for parameter in model.trainable_parameters():
            parameter.add_(0.1)
    expected = model.forward(pack(groups))["logprobs"].detach()
    model.save(tmp_path / "adapter")
    assert (tmp_path / "adapter" / "adapter_config.json").is_file()
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    again = load_model(tmp_path / "adapter")
    torch.testing.assert_close(again.forward(pack(groups))["logprobs"], expected)
    assert again.trainable_parameters()
    with pytest.raises(ModelError, match="already holds adapters"):
        load_model(tmp_path / "adapter", lora=LoraConfig())


def test_settings(folder: Path) -> None:
    model = load_model(
        folder,
        attention="unshared",
        reference=True,
        dtype="bfloat16",
        chat_template="{{ messages }}",
    )
    assert model.why_unshared == "attention = unshared"
    assert next(model.hf.parameters()).dtype == torch.bfloat16
    assert model.tokenizer.chat_template == "{{ messages }}"
    with model.reference():
        pass
    assert load_model(folder, dtype="bfloat16").shares_trunks


def test_wrong_settings(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"dtype is 'float31'.*did you mean"):
        load_model(folder, dtype="float31")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="attention is 'tree'"):
        load_model(folder, attention="tree")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="device is 'gpu'"):
        load_model(folder, device="gpu")
    with pytest.raises(ModelError, match="neither a file nor a Jinja template"):
        load_model(folder, chat_template="absent.jinja")
