"""Prompts below a prefix tree: exact, and nothing that is held is computed again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from decoders import with_lora

from posttrain.engines.prefill import Prefill, Prefilled
from posttrain.engines.prefix_tree import NODE_BYTES, PrefixTree
from posttrain.models.language_model import LanguageModel

Build = Callable[[str], LanguageModel]
TRUNK = tuple(range(3, 33))
ROUNDS = [
    [TRUNK, (5, 6, 7)],
    [(*TRUNK, 40, 41), (*TRUNK, 50), (*TRUNK[:20], 60, 61, 62), (5, 6, 7, 8)],
    [(*TRUNK, 40, 41, 42), (*TRUNK, 40, 41), (*TRUNK, 50, 51, 52), TRUNK[:25], (90, 91), (5,)],
]
# Tokens that no earlier round has computed; of a prompt that is held, its last.
NEW = [30 + 3, 2 + 1 + 3 + 1, 1 + 1 + 2 + 1 + 2 + 1]


def virtual(decoder: Build, kind: str) -> LanguageModel:
    from posttrain.config import AdapterConfig
    from posttrain.models.adapters import add_adapter
    from posttrain.models.virtual_tokens import virtual_tokens

    hf = add_adapter(decoder("llama").hf, AdapterConfig(kind=kind, num_virtual_tokens=4), seed=0)
    hf.double()
    model = LanguageModel(hf, None)  # type: ignore[arg-type]
    model.share_trunks()
    model.virtual = virtual_tokens(hf)
    return model


def built(decoder: Build, kind: str) -> LanguageModel:
    """In float64, where the model's own layers run."""
    if kind in ("prompt", "prefix"):
        model = virtual(decoder, kind)
    else:
        model = with_lora(decoder) if kind == "lora" else decoder(kind)
        model.hf.double()
        model.share_trunks()
    assert model.shares_trunks
    return model


def check(found: list[Prefilled], expected: list[Prefilled], tolerance: float) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.hidden, theirs.hidden, rtol=tolerance, atol=tolerance)
        for pair, other in zip(ours.kv(), theirs.kv(), strict=True):
            torch.testing.assert_close(pair, other, rtol=tolerance, atol=tolerance)


def rounds(model: LanguageModel, tolerance: float, **settings: Any) -> list[int]:
    """Prompts that grow, beside each alone by a plain forward pass; tokens computed per round."""
    tree = PrefixTree(settings.pop("max_bytes", 1 << 30))
    prefill = Prefill(model, tree, **{"max_tokens": 1000} | settings)
    each = []
    with torch.inference_mode():
        for prompts in ROUNDS:
            found = prefill(prompts)
            each.append(sum(p.num_computed for p in found))
            plain = [Prefill(model, PrefixTree(0), max_tokens=1000)([p])[0] for p in prompts]
            check(found, plain, tolerance)
            for prompt, ours in zip(prompts, found, strict=True):
                if not model.num_virtual_tokens:
                    states = model._row_hidden(torch.tensor([prompt]))[0, -1]
                    torch.testing.assert_close(ours.hidden, states, rtol=tolerance, atol=tolerance)
    assert tree.num_bytes <= tree.max_bytes
    return each


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma2", "gpt2", "lora", "prompt", "prefix"])
def test_it_is_exact_and_computes_only_what_is_new(decoder: Build, kind: str) -> None:
    assert rounds(built(decoder, kind), 1e-9) == NEW


def test_the_fused_layers_give_the_same(decoder: Build) -> None:
    assert rounds(decoder("llama"), 2e-5) == NEW  # in float32


def test_short_passes_and_short_memory_change_nothing(decoder: Build) -> None:
    model = built(decoder, "gemma2")
    assert rounds(model, 1e-9, max_tokens=4)[0] == NEW[0]
    per_token = 2 * 3 * 2 * 16 * 8
    forgetful = rounds(model, 1e-9, max_bytes=20 * per_token + NODE_BYTES)
    assert forgetful[0] == NEW[0] and forgetful[1] > NEW[1]
