"""Every kind of adapter: exact in a forest, off it is the base, merged it is the same, and PEFT
loads what was saved.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from posttrain.config import AdapterConfig, LoraConfig
from posttrain.data.forest import Forest, TokenSequence, Tree
from posttrain.engines.torch import TorchEngine
from posttrain.errors import ConfigError, MissingDependency, ModelError
from posttrain.models.language_model import LanguageModel
from posttrain.models.load import load_model
from posttrain.types import Request, Sampling

KINDS: dict[str, LoraConfig | AdapterConfig] = {
    "lora": LoraConfig(r=4),
    "rslora": LoraConfig(r=4, rslora=True),
    "dora": LoraConfig(r=4, use_dora=True),
    "pissa": LoraConfig(r=4, init="pissa"),
    "olora": LoraConfig(r=4, init="olora"),
    "adalora": AdapterConfig("adalora", r=2),
    "vera": AdapterConfig("vera", r=8),
    "ia3": AdapterConfig("ia3"),
    "curlora": AdapterConfig("curlora", r=4),
    "prompt": AdapterConfig("prompt", num_virtual_tokens=5),
    "prompt-text": AdapterConfig("prompt", num_virtual_tokens=5, init_text="w3 w4 w5 w6 w7"),
    "prefix": AdapterConfig("prefix", num_virtual_tokens=5),
    "prefix-network": AdapterConfig("prefix", num_virtual_tokens=5, encoder_hidden_size=6),
    "p_tuning": AdapterConfig("p_tuning", num_virtual_tokens=5, encoder_hidden_size=6),
}
SAME_AT_FIRST = ("lora", "rslora", "dora", "pissa", "olora", "vera", "ia3", "curlora")
MERGED = ("lora", "rslora", "dora", "pissa", "olora", "adalora", "vera", "ia3", "curlora")


def adapted(folder: Path, kind: str) -> LanguageModel:
    settings = KINDS[kind]
    return load_model(
        folder,
        dtype="float32",
        **{"lora" if isinstance(settings, LoraConfig) else "adapter": settings},
        seed=1,
    )


def stir(model: Any) -> None:
    """Move every trained parameter away from where it began."""
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.hf.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=draw)


@pytest.fixture
def forest(groups: list[list[TokenSequence]]) -> Forest:
    """Branching trees over the 50 words of the folder's tokenizer."""
    for sequence in (s for g in groups for s in g):
        sequence.ids %= 50
    return Forest.pack([Tree.build(g, min_shared=1) for g in groups])


def by_rows(hf: Any, forest: Forest) -> torch.Tensor:
    """Log-probs of the targets from one ordinary call of the model a sequence."""
    found = []
    for sequence, last in enumerate(forest.last.tolist()):
        ids = forest.tokens[: last + 1][forest.ends[: last + 1] > last]
        with torch.no_grad():
            logits = hf(input_ids=ids[None]).logits[
                0, -len(ids) :
            ]  # a model with virtual tokens gives logits of those too
        places = forest.positions[forest.place[forest.sequence == sequence]]
        found.append(torch.log_softmax(logits, -1)[places - 1].gather(-1, ids[places, None])[:, 0])
    return torch.cat(found)


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_forest_reference_merge_and_saved_folder(
    kind: str, folder: Path, forest: Forest, tmp_path: Path
) -> None:
    base = by_rows(AutoModelForCausalLM.from_pretrained(folder).eval(), forest)
    model = adapted(folder, kind)
    model.enable_reference()
    needs = frozenset({"logprobs", "ref_logprobs"})
    first = model.forward(forest, needs)
    close(first["ref_logprobs"], base)
    if kind in SAME_AT_FIRST:
        close(first["logprobs"].detach(), base)
    model.forward(forest)["logprobs"].sum().backward()
    trained = [p for p in model.hf.parameters() if p.requires_grad]
    assert trained and all(p.grad is not None for p in trained)
    total = sum(p.numel() for p in model.hf.parameters())
    assert sum(p.numel() for p in trained) < (0.5 if kind == "vera" else 0.9) * total

    stir(model)
    found = model.forward(forest, needs)
    assert float((found["logprobs"].detach() - base).abs().max()) > 1e-2
    close(found["logprobs"].detach(), by_rows(model.hf, forest))
    close(found["ref_logprobs"], base)
    model.save(tmp_path / "saved")
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    close(
        by_rows(peft.PeftModel.from_pretrained(plain, str(tmp_path / "saved")).eval(), forest),
        found["logprobs"].detach(),
    )
    again = load_model(tmp_path / "saved", dtype="float32")
    close(again.forward(forest)["logprobs"].detach(), found["logprobs"].detach())
    if kind in MERGED:
        close(by_rows(model.hf.merge_and_unload(), forest), found["logprobs"].detach())


@pytest.mark.parametrize(
    "kind", ["dora", "adalora", "ia3", "curlora", "prompt", "prefix", "p_tuning"]
)
def test_the_engine_writes_what_peft_writes(kind: str, folder: Path) -> None:
    model = adapted(folder, kind)
    stir(model)
    prompts = [(3, 4, 5, 6), (3, 4, 9), (7,)]
    requests = [Request(p, Sampling(max_tokens=9, temperature=0.0), n=2) for p in prompts]
    written = TorchEngine(model).generate(requests)
    for prompt, samples in zip(prompts, written, strict=True):
        ids = torch.tensor([prompt])
        theirs = model.hf.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=9,
            do_sample=False,
            pad_token_id=49,
        )
        new = theirs[0, -9:].tolist() if theirs.shape[1] >= 9 else theirs[0].tolist()
        new = (
            theirs[0, len(prompt) :].tolist()
            if theirs[0, : len(prompt)].tolist() == list(prompt)
            else new
        )
        for sample in samples:
            assert sample.ids == new[: len(sample.ids)]
            scored = TorchEngine(model).score([([*prompt, *sample.ids], len(prompt))])[0]
            np.testing.assert_allclose(scored, sample.raw_logprobs, atol=2e-4)


def test_plus_ratio_reaches_the_matrices_b(folder: Path) -> None:
    from posttrain.models.adapters import rate_factors

    settings = LoraConfig(r=2, lora_plus_ratio=16.0)
    model = load_model(folder, lora=settings)
    factors = rate_factors(model.hf, settings)
    names = {n for n, p in model.hf.named_parameters() if p in factors}
    assert names == {n for n, p in model.hf.named_parameters() if "lora_B" in n} and set(
        factors.values()
    ) == {16.0}
    assert rate_factors(model.hf, LoraConfig(r=2)) == {}


def test_bad_settings(folder: Path) -> None:
    from posttrain.recipe import parse_recipe

    def refused(error: type[Exception], message: str, **model: Any) -> None:
        with pytest.raises(error, match=message):
            parsed = parse_recipe(
                {"method": "sft", "data": "x", "model": {"path": str(folder), **model}}
            ).model
            assert parsed is not None
            load_model(
                folder,
                lora=parsed.lora,
                adapter=parsed.adapter,
                attention=parsed.attention,
                quantization=parsed.quantization,
            )

    refused(ConfigError, "'adalra' is not a choice; .*adalora", adapter="adalra")
    refused(
        ConfigError,
        "kind 'ia3' does not read it; it reads target_modules",
        adapter={"kind": "ia3", "r": 4},
    )
    refused(
        ConfigError, "num_virtual_tokens: 0", adapter={"kind": "prompt", "num_virtual_tokens": 0}
    )
    refused(ConfigError, "kind 'partial' trains nothing", adapter="partial")
    refused(ConfigError, "lora and adapter .* keep one", adapter="ia3", lora={"r": 4})
    refused(ConfigError, "lora_plus_ratio: 0", lora={"lora_plus_ratio": 0})
    refused(ConfigError, "model.lora.r: 0", lora={"r": 0})
    refused(ConfigError, "nf4 weights cannot be trained", quantization="nf4")
    refused(
        ModelError,
        "adapter.target_modules: no layer is called 'k_prj'.*k_proj",
        adapter={"kind": "ia3", "target_modules": ["k_prj"]},
    )
    refused(
        ModelError,
        "'lm_head' is the vocabulary projection",
        adapter={"kind": "vera", "target_modules": ["lm_head"]},
    )
    refused(
        ModelError,
        "virtual tokens .* stand before a token forest",
        adapter="prompt",
        attention="unshared",
    )
    with pytest.raises(ModelError, match=r"init = random has none"):
        load_model(folder, lora=LoraConfig(r=2), quantization="nf4", init="random")
    if importlib.util.find_spec("bitsandbytes") is None:
        refused(MissingDependency, "bitsandbytes", quantization="nf4", lora={"r": 2})


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_adapters_over_quantised_weights(quantization: Any, folder: Path, forest: Forest) -> None:
    pytest.importorskip("bitsandbytes")
    base = by_rows(AutoModelForCausalLM.from_pretrained(folder).eval(), forest)
    model = load_model(folder, dtype="float32", lora=LoraConfig(r=4), quantization=quantization)
    assert any(type(m).__name__ in ("Linear4bit", "Linear8bitLt") for m in model.hf.modules())
    found = model.forward(forest)["logprobs"]
    found.sum().backward()
    assert all(p.grad is not None for p in model.trainable_parameters())
    near = float((found.detach() - base).abs().mean() / base.abs().mean())
    assert 0 < near < 0.25
    with model.reference():
        torch.testing.assert_close(model.forward(forest)["logprobs"], found, atol=1e-5, rtol=1e-5)
