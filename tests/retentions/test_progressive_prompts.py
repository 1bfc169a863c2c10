"""Progressive prompts: what is computed, what is trained, what is saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import posttrain as pt
from posttrain.data.forest import Forest, TokenSequence, Tree
from posttrain.errors import ConfigError
from posttrain.models.language_model import LanguageModel
from posttrain.registry import retentions

IDS = torch.tensor([5, 6, 7, 8])


@pytest.fixture
def prompted(tiny_folder: Path) -> LanguageModel:
    adapter = pt.Adapter("prompt", num_virtual_tokens=2)
    return pt.load(str(tiny_folder), dtype="float32", adapter=adapter)


def logprobs(model: LanguageModel) -> torch.Tensor:
    row = TokenSequence(IDS.numpy(), [False, True, True, True])
    with torch.no_grad():
        return model.forward(Forest.pack([Tree.build([row])]))["logprobs"]


def with_prompts(model: LanguageModel, prompts: torch.Tensor) -> torch.Tensor:
    """Log-probs of IDS below prompts [n, D], by the plain model."""
    lm: Any = model.pretrained
    with torch.no_grad():
        embedded = lm.get_input_embeddings()(IDS)
        everything = torch.cat([prompts, embedded])[None]
        out = torch.log_softmax(lm(inputs_embeds=everything).logits[0], -1)
    return out[len(prompts) : -1].gather(-1, IDS[1:, None])[:, 0]


def test_all_prompts_stand_before_a_sequence(
    prompted: LanguageModel, stage_of: Callable[..., Any]
) -> None:
    method = retentions.get("progressive_prompts")()
    tables = []
    for number in range(3):
        stage = stage_of(prompted, number, learning_rate=1e-2)
        pt.fit(prompted, method.begin(stage), steps=1)
        tables.insert(0, prompted.hf.prompt_encoder["default"].embedding.weight.detach().clone())
        method.end(stage)
        assert torch.equal(method.prompts, torch.cat(tables))
        assert prompted.num_virtual_tokens == 2 * (number + 1)
        expected = with_prompts(prompted, torch.cat(tables))
        torch.testing.assert_close(logprobs(prompted), expected, rtol=1e-4, atol=1e-4)
    assert [n for n, p in prompted.hf.named_parameters() if p.requires_grad] == [
        "prompt_encoder.default.embedding.weight"
    ]


def test_an_earlier_prompt_is_frozen_and_the_new_one_fresh(
    prompted: LanguageModel, stage_of: Callable[..., Any]
) -> None:
    method = retentions.get("progressive_prompts")()
    method.end(stage_of(prompted, 0))
    first = method.prompts.clone()
    plan = method.begin(stage_of(prompted, 1, learning_rate=1e-1))
    vocabulary = prompted.pretrained.get_input_embeddings().weight
    fresh = prompted.hf.prompt_encoder["default"].embedding.weight
    assert all(any(torch.equal(row, word) for word in vocabulary) for row in fresh)
    pt.fit(prompted, plan, steps=2)
    method.end(stage_of(prompted, 1))
    assert torch.equal(method.prompts[2:], first)
    assert not torch.equal(method.prompts[:2], first)


def test_the_saved_model_opens_in_peft(
    prompted: LanguageModel, stage_of: Callable[..., Any], tmp_path: Path
) -> None:
    method = retentions.get("progressive_prompts")()
    method.end(stage_of(prompted, 0))
    method.begin(stage_of(prompted, 1))
    method.save(prompted, tmp_path / "model")
    again = pt.load(str(tmp_path / "model"), dtype="float32")
    assert again.num_virtual_tokens == 4
    torch.testing.assert_close(logprobs(again), logprobs(prompted), rtol=1e-4, atol=1e-4)


def test_restored_it_is_the_model_that_the_stage_left(
    prompted: LanguageModel, stage_of: Callable[..., Any], tiny_folder: Path
) -> None:
    method = retentions.get("progressive_prompts")()
    method.end(stage_of(prompted, 0))
    method.begin(stage_of(prompted, 1))
    method.end(stage_of(prompted, 1))
    adapter = pt.Adapter("prompt", num_virtual_tokens=2)
    fresh = pt.load(str(tiny_folder), dtype="float32", adapter=adapter)
    name = "prompt_encoder.default.embedding.weight"
    fresh.hf.get_parameter(name).data.copy_(prompted.hf.get_parameter(name))
    again = retentions.get("progressive_prompts")()
    again.load_state(method.state())
    again.restore(stage_of(fresh, 1))
    assert torch.equal(logprobs(fresh), logprobs(prompted))


def test_a_model_without_a_prompt_is_refused(
    model: LanguageModel, stage_of: Callable[..., Any]
) -> None:
    with pytest.raises(ConfigError):
        retentions.get("progressive_prompts")().begin(stage_of(model, 0))
