"""Block expansion: the same function bit for bit, new blocks alone trained, plain transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import posttrain as pt
from posttrain.errors import ConfigError, ModelError
from posttrain.models.language_model import LanguageModel

ROWS = [{"prompt": f"{i}+{i}=", "completion": f"{2 * i}"} for i in range(1, 7)]
IDS = torch.tensor([[5, 6, 7, 8, 9]])


def expanded(folder: Path, num_blocks: int = 2) -> LanguageModel:
    adapter = pt.Adapter("llama_pro", num_blocks=num_blocks)
    return pt.load(str(folder), dtype="float32", adapter=adapter)


def logits(model: LanguageModel) -> torch.Tensor:
    with torch.no_grad():
        return model.hf(input_ids=IDS).logits.clone()


@pytest.mark.parametrize("num_blocks", [1, 2])
def test_the_function_stays_bit_for_bit(tiny_folder: Path, num_blocks: int) -> None:
    plain = pt.load(str(tiny_folder), dtype="float32")
    model = expanded(tiny_folder, num_blocks)
    count = plain.config.num_hidden_layers
    assert model.config.num_hidden_layers == count + num_blocks
    assert torch.equal(logits(model), logits(plain))
    assert model.shares_trunks


def test_new_blocks_alone_are_trained_and_the_result_opens_in_transformers(
    tiny_folder: Path, tmp_path: Path
) -> None:
    plain = pt.load(str(tiny_folder), dtype="float32")
    model = expanded(tiny_folder)
    places = model.hf.config.expanded_blocks
    trained = {n for n, p in model.hf.named_parameters() if p.requires_grad}
    assert {n.split(".layers.")[1].split(".")[0] for n in trained} == {str(p) for p in places}
    result = pt.fit(model, pt.sft(ROWS, learning_rate=1e-2), steps=3, output=tmp_path / "run")
    old = dict(plain.hf.named_parameters())
    layers = model.base.layers
    kept = [i for i in range(len(layers)) if i not in places]
    for number, place in enumerate(kept):
        for name, p in layers[place].named_parameters():
            assert torch.equal(p, dict(plain.base.layers[number].named_parameters())[name])
    assert torch.equal(model.hf.get_input_embeddings().weight, next(iter(old.values())))
    assert not torch.equal(logits(model), logits(plain))
    alone = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model").eval()
    assert alone.config.num_hidden_layers == len(layers)
    with torch.no_grad():
        torch.testing.assert_close(alone(input_ids=IDS).logits, logits(result.model))


def test_a_run_resumes_and_a_saved_model_is_trained_on(tiny_folder: Path, tmp_path: Path) -> None:
    config = {"path": str(tiny_folder), "dtype": "float32"}
    adapter = pt.Adapter("llama_pro", num_blocks=1)
    plan = pt.sft(ROWS, learning_rate=1e-2, batch_size=2)
    spec = pt.Model(**config, adapter=adapter)
    whole = pt.fit(spec, plan, steps=4, output=tmp_path / "a", save_every=2)
    pt.fit(spec, plan, steps=2, schedule_steps=4, output=tmp_path / "b", save_every=2)
    half = pt.fit(spec, plan, steps=4, schedule_steps=4, output=tmp_path / "b", resume=True)
    for a, b in zip(whole.model.hf.parameters(), half.model.hf.parameters(), strict=True):
        assert torch.equal(a, b)
    again = expanded(tmp_path / "a" / "model", 1)
    assert again.config.num_hidden_layers == whole.model.config.num_hidden_layers
    assert torch.equal(logits(again), logits(whole.model))
    with pytest.raises(ModelError):
        expanded(tmp_path / "a" / "model", 2)


def test_wrong_numbers_are_refused(tiny_folder: Path) -> None:
    with pytest.raises(ConfigError):
        pt.Adapter("llama_pro")
    with pytest.raises(ModelError):
        expanded(tiny_folder, 99)
