"""CURLoRA: frozen columns and rows, U from 0, the update's formula, saving and resuming."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import posttrain as pt
from posttrain.data.forest import Forest, TokenSequence, Tree
from posttrain.errors import ModelError
from posttrain.models.adapters import save_merged
from posttrain.models.curlora import cur_layers, unlikely
from posttrain.models.language_model import LanguageModel

ROWS = [{"prompt": f"{i}+{i}=", "completion": f"{2 * i}"} for i in range(1, 7)]
IDS = torch.tensor([[5, 6, 7, 8, 9]])


def adapted(folder: Path, r: int = 3) -> LanguageModel:
    return pt.load(str(folder), dtype="float32", adapter=pt.Adapter("curlora", r=r))


def logits(model: LanguageModel) -> torch.Tensor:
    with torch.no_grad():
        return model.hf(input_ids=IDS).logits.clone()


def moved(model: LanguageModel) -> None:
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.trainable_parameters():
            p.add_(torch.randn(p.shape, generator=draw))


def test_it_starts_unchanged_and_trains_u_alone(tiny_folder: Path) -> None:
    plain = pt.load(str(tiny_folder), dtype="float32")
    model = adapted(tiny_folder)
    assert torch.equal(logits(model), logits(plain))
    names = [n for n, p in model.hf.named_parameters() if p.requires_grad]
    assert names and all(n.endswith("lora_B.default.u") for n in names)
    with model.reference():  # switches adapters off, and on again
        assert torch.equal(logits(model), logits(plain))
    assert names == [n for n, p in model.hf.named_parameters() if p.requires_grad]


def test_the_update_is_c_u_r_in_float64(tiny_folder: Path) -> None:
    model = adapted(tiny_folder)
    moved(model)
    layers = list(cur_layers(model.hf))
    assert len(layers) == len({name for name, _ in layers}) > 3
    for _, module in layers:
        weight = module.get_base_layer().weight.detach()
        columns, rows = module.lora_B["default"].columns, module.lora_A["default"].weight
        assert all(any(torch.equal(c, w) for w in weight.T) for c in columns.T)
        assert all(any(torch.equal(c, w) for w in weight) for c in rows)
        x = torch.randn(4, weight.shape[1], generator=torch.Generator().manual_seed(1))
        u = module.lora_B["default"].u.detach().double()
        total = weight.double() + columns.double() @ u @ rows.double()
        with torch.no_grad():
            ours = module(x)
        torch.testing.assert_close(ours.double(), x.double() @ total.T, rtol=1e-4, atol=1e-4)


def test_a_forest_computes_the_update(tiny_folder: Path) -> None:
    model = adapted(tiny_folder)
    moved(model)
    row = TokenSequence(IDS[0].numpy(), [False, True, True, True, True])
    with torch.no_grad():
        ours = model.forward(Forest.pack([Tree.build([row])]))["logprobs"]
        plain = torch.log_softmax(logits(model)[0], -1)
    theirs = plain[torch.arange(4), IDS[0, 1:]]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_small_columns_are_likely() -> None:
    draw = np.random.default_rng(0)
    norms = torch.tensor([1.0, 1.0, 1e6, 1e6, 1e6])
    drawn = [unlikely(norms, 2, draw).tolist() for _ in range(50)]
    assert sum(d == [0, 1] for d in drawn) == 50
    counts = [unlikely(torch.tensor([1.0, 3.0]), 1, draw)[0] for _ in range(2000)]
    assert np.mean(counts) == pytest.approx(0.25, abs=0.04)


def test_it_resumes_exactly_and_peft_opens_it(tiny_folder: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    spec = pt.Model(path=str(tiny_folder), dtype="float32", adapter=pt.Adapter("curlora", r=3))
    plan = pt.sft(ROWS, learning_rate=1e-1, batch_size=2)
    whole = pt.fit(spec, plan, steps=4, output=tmp_path / "a", save_every=2)
    pt.fit(spec, plan, steps=2, schedule_steps=4, output=tmp_path / "b", save_every=2)
    half = pt.fit(spec, plan, steps=4, schedule_steps=4, output=tmp_path / "b", resume=True)
    for a, b in zip(whole.model.hf.parameters(), half.model.hf.parameters(), strict=True):
        assert torch.equal(a, b)
    again = pt.load(str(tmp_path / "a" / "model"), dtype="float32")
    assert torch.equal(logits(again), logits(whole.model))
    assert [n for n, _ in cur_layers(again.hf)] == [n for n, _ in cur_layers(whole.model.hf)]
    base = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    alone = PeftModel.from_pretrained(base, tmp_path / "a" / "model").eval()
    with torch.no_grad():
        theirs = alone(input_ids=IDS).logits
    torch.testing.assert_close(theirs, logits(whole.model), rtol=1e-4, atol=1e-4)
    save_merged(whole.model, tmp_path / "merged")
    merged = pt.load(str(tmp_path / "merged"), dtype="float32")
    torch.testing.assert_close(logits(merged), logits(whole.model), rtol=1e-4, atol=1e-4)


def test_too_large_a_rank_is_refused(tiny_folder: Path) -> None:
    with pytest.raises(ModelError):
        adapted(tiny_folder, 10_000)
