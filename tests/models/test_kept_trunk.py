"""A trunk that is computed once for its micro-batches: the gradient of the whole batch, for every
architecture; and what is computed how often."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from posttrain.config import AdapterConfig, LoraConfig
from posttrain.data.forest import Batch, Forest, TokenSequence, Tree
from posttrain.kernels import fused
from posttrain.models.adapters import add_lora
from posttrain.models.attention import ForestPlan
from posttrain.models.kept_trunk import LeafPlan, leaves_of, trunk_of
from posttrain.models.language_model import LanguageModel
from posttrain.models.load import load_model, load_score_model

from .conftest import ARCHITECTURES

Make = Callable[..., LanguageModel]
BUDGET = 16


def batch(vocab_size: int = 50) -> Batch:
    """A tree with a trunk of 14 tokens, forks below it, targets in the trunk, a duplicate, and a
    sequence that ends with the trunk; and a short tree beside it.
    """
    draw = np.random.default_rng(3)

    def some(count: int) -> list[int]:
        return draw.integers(0, vocab_size, count).tolist()

    stem, fork = some(14), some(5)
    lists = [stem + some(4), stem + fork + some(3), stem + fork + some(6), stem, stem + some(9)]
    lists.append(lists[0])
    deep = [
        TokenSequence(np.array(ids), np.arange(len(ids)) >= 10, row=str(i))
        for i, ids in enumerate(lists)
    ]
    short = TokenSequence(np.array(some(7)), np.arange(7) > 2, row="short")
    return Batch([Tree.build(deep, min_shared=1), Tree.build([short])])


def loss_of(outputs: dict[str, Any], micro: Forest) -> torch.Tensor:
    """A sum over targets in which each one has a weight of its own."""
    weight = torch.sin(micro.target * 1.7 + micro.positions[micro.place] * 0.3)
    return sum(
        (weight * outputs[name]).sum()
        for name in ("logprobs", "entropy", "values")
        if name in outputs
    )  # type: ignore[return-value]


def gradients(
    model: LanguageModel, micros: list[Forest], needs: set[str]
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The gradient of each trained parameter, and the outputs of each target."""
    parameters = {f"model.{n}": p for n, p in model.hf.named_parameters()}
    if model.critic is not None:
        parameters |= {f"critic.{n}": p for n, p in model.critic.hf.named_parameters()}
    for p in parameters.values():
        p.grad = None
    seen: dict[str, torch.Tensor] = {}
    for micro in micros:
        outputs = model.forward(micro, needs)
        model.backward(loss_of(outputs, micro), micro)
        for sequence, row in enumerate(micro.rows):
            here = micro.sequence == sequence
            for name in needs & outputs.keys():
                seen[f"{row}/{name}"] = outputs[name].detach()[here]
    assert not model._kept
    return {n: p.grad.clone() for n, p in parameters.items() if p.grad is not None}, seen


def check(model: LanguageModel, needs: set[str], rtol: float = 1e-9) -> None:
    """One forward of the whole batch and micro-batches that share the trunk agree."""
    trees = batch()
    micros = trees.split(BUDGET, share_trunks=True)
    assert sum(m.trunk is not None for m in micros) >= 4
    expected, whole = gradients(model, trees.split(None), needs)
    found, parts = gradients(model, micros, needs)
    assert parts.keys() == whole.keys() and found.keys() == expected.keys()
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=rtol, atol=rtol, msg=name)
    for name, grad in expected.items():
        scale = max(float(grad.abs().max()), 1e-3)
        gap = float((found[name] - grad).abs().max()) / scale
        assert gap < rtol, (name, gap)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_gradient_is_that_of_the_whole_batch(name: str, tiny: Make) -> None:
    has_experts = name in ("Mixtral", "Qwen3Moe", "GptOss")  # products of groups need float32
    model = tiny(name, torch.float32 if has_experts else torch.float64)
    assert model.shares_trunks
    # Norms of transformers compute in float32 whatever the weights are.
    check(model, {"logprobs", "entropy_gradient", "entropy"}, rtol=2e-4 if has_experts else 2e-5)


@pytest.mark.parametrize("name", ["Qwen2", "GPT2"])
def test_it_is_exact_in_float64(name: str, tiny: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(name)
    for module in model.hf.modules():
        if "RMSNorm" in type(module).__name__:
            eps, weight = module.variance_epsilon, module.weight

            def norm(x: torch.Tensor, eps: float = eps, weight: Any = weight) -> torch.Tensor:
                return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * weight

            monkeypatch.setattr(module, "forward", norm)
    check(model, {"logprobs", "entropy"})


def test_adapters_checkpointing_reference_and_critic(
    tiny: Make, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = LanguageModel(add_lora(tiny("Llama").hf, LoraConfig(r=2)), None)  # type: ignore[arg-type]
    for name, p in model.hf.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.2)
    model.share_trunks()
    critic = load_score_model(str(tiny_folder), per="token", dtype="float64")
    torch.nn.init.normal_(critic.score_head.weight)
    model.critic = critic
    model.enable_gradient_checkpointing()
    model.train()
    computed: list[int] = []
    plain = LanguageModel._shared_hidden

    def counted(self: Any, forest: Forest, **options: Any) -> Any:
        computed.append(forest.num_tokens)
        return plain(self, forest, **options)

    monkeypatch.setattr("posttrain.models.forest_model.ForestModel._shared_hidden", counted)
    check(model, {"logprobs", "ref_logprobs", "values"}, rtol=2e-5)
    # Once for the whole batch; then the short tree, and the trunk: by policy, reference, critic.
    assert sorted(computed) == [7] * 3 + [14] * 3 + [max(computed)] * 3


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_virtual_tokens_stand_above_the_trunk(kind: Any, tiny_folder: Path) -> None:
    adapter = AdapterConfig(kind, num_virtual_tokens=3)
    model = load_model(str(tiny_folder), adapter=adapter, dtype="float64")
    check(model, {"logprobs"}, rtol=2e-5)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_fused_layers_give_keys_and_values_a_gradient(
    llama_like: Make, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = llama_like(family)
    shapes: list[tuple[int, bool]] = []
    apply = fused._FusedLayer.apply

    def noted(*given: Any) -> Any:
        shapes.append((len(given[0]), given[2] is not None))
        return apply(*given)

    monkeypatch.setattr(fused._FusedLayer, "apply", noted)
    check(model, {"logprobs", "entropy"}, rtol=5e-5)
    assert (14, False) in shapes and any(above for _, above in shapes)


def test_noise_on_embeddings_and_rows_without_a_shared_trunk_are_computed_whole(tiny: Make) -> None:
    model = tiny("Llama")
    model.neftune_noise_alpha = 1e-12
    model.train()
    check(model, {"logprobs"}, rtol=2e-5)
    model.neftune_noise_alpha = 0.0
    model.keep_unshared("as a test")
    check(model, {"logprobs"}, rtol=2e-5)


def test_without_a_gradient_nothing_stays(tiny: Make) -> None:
    model = tiny("Llama")
    with torch.no_grad():
        for micro in batch().split(BUDGET, share_trunks=True):
            model.forward(micro)
    assert not model._kept


@pytest.mark.parametrize("window", [None, 6])
def test_the_rule_of_flex_attention_shows_what_the_whole_forest_shows(window: int | None) -> None:
    micro = next(m for m in batch().split(40, share_trunks=True) if m.trunk is not None)
    count = micro.trunk.count  # type: ignore[union-attr]
    leaves = leaves_of(micro, count)
    assert trunk_of(micro, count).tokens.tolist() == micro.tokens[:count].tolist()
    keys = [(torch.zeros(1, count, 8), torch.zeros(1, count, 8))]
    below, whole = LeafPlan(leaves, keys).mask_mod(window), ForestPlan(micro).mask_mod(window)
    none = torch.zeros(())
    q, k = torch.arange(leaves.num_tokens)[:, None], torch.arange(micro.num_tokens)[None]
    assert torch.equal(below(none, none, q, k), whole(none, none, q + count, k))
