"""A forest gives what plain forwards give: log-probabilities and every gradient, for many
architectures.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention.flex_attention import create_mask, flex_attention

from posttrain.data.forest import Batch, Forest, TokenSequence, Tree
from posttrain.errors import ModelError
from posttrain.models.attention import (
    CompiledFlex,
    ForestPlan,
    eager_attention,
    register,
    soft_capping,
    without_mask,
)
from posttrain.models.language_model import LanguageModel

from .conftest import ARCHITECTURES, plain_logprobs, tiny_hf

Groups = list[list[TokenSequence]]
Make = Callable[..., LanguageModel]


def forest_of(groups: Groups, min_shared: int = 1) -> Forest:
    return Forest.pack([Tree.build(group, min_shared=min_shared) for group in groups])


def visible(forest: Forest, window: int | None = None) -> torch.Tensor:
    """[N, N] from the definition."""
    index = torch.arange(forest.num_tokens)
    rule = (index[None] <= index[:, None]) & (index[:, None] < forest.ends[None])
    if window is not None:
        rule &= forest.positions[:, None] - forest.positions[None] < window
    return rule


def own_attention(name: str, dtype: torch.dtype = torch.float64) -> Any:
    """The same weights with the attention that transformers itself spells out."""
    hf = tiny_hf(name, dtype)
    hf.set_attn_implementation("eager")
    return hf


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_logprobs_and_gradients_equal_plain_forwards(name: str, tiny: Make, groups: Groups) -> None:
    # transformers' experts do not run in float64; its norms, sinks and caps compute in float32 in
    # any case.
    dtype = torch.float32 if name in ("Mixtral", "Qwen3Moe", "GptOss") else torch.float64
    tolerance = {"GPT2": 1e-9}.get(name, 1e-5)
    model = tiny(name, dtype)
    assert model.shares_trunks, model.why_unshared
    forest = forest_of(groups)
    weight = torch.sin(torch.arange(forest.num_targets, dtype=dtype))
    logprobs = model.forward(forest)["logprobs"]
    (weight * logprobs).sum().backward()
    hf = own_attention(name, dtype)
    expected = plain_logprobs(hf, groups)
    (weight * expected).sum().backward()
    torch.testing.assert_close(logprobs, expected, rtol=tolerance, atol=tolerance)
    for (label, ours), theirs in zip(model.hf.named_parameters(), hf.parameters()):
        assert (ours.grad is None) == (theirs.grad is None), label
        if ours.grad is not None and theirs.grad is not None:
            scale = float(theirs.grad.abs().max().clamp_min(1e-3))
            assert float((ours.grad - theirs.grad).abs().max()) <= tolerance * 10 * scale, label


@pytest.mark.parametrize("name", ["Llama", "Gemma2"])
def test_float32_is_close(name: str, tiny: Make, groups: Groups) -> None:
    model = tiny(name, torch.float32)
    with torch.no_grad():
        found = model.forward(forest_of(groups))["logprobs"]
        expected = plain_logprobs(own_attention(name, torch.float32), groups)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("window", [None, 3, 8, 1000])
@pytest.mark.parametrize("softcap", [None, 1.3])
def test_masked_path_against_a_dense_mask(
    window: int | None, softcap: float | None, groups: Groups
) -> None:
    forest = forest_of(groups)
    torch.manual_seed(0)
    q, k, v = (
        torch.randn(1, heads, forest.num_tokens, 8, dtype=torch.float64) for heads in (4, 2, 2)
    )
    module: Any = SimpleNamespace(layer_idx=0)
    out = ForestPlan(forest).attend(
        module, q, k, v, scaling=0.9, sliding_window=window, softcap=softcap
    )
    expected = eager_attention(q, k, v, visible(forest, window), 0.9, softcap).transpose(1, 2)
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-6)


def test_long_runs_are_cut_into_pieces() -> None:
    draw = np.random.default_rng(0)
    trunk = draw.integers(0, 50, 600)
    group = [np.concatenate([trunk, draw.integers(0, 50, n)]) for n in (300, 40)]
    forest = forest_of([[TokenSequence(ids, np.arange(len(ids)) > 0) for ids in group]])
    q, k, v = (torch.randn(1, 2, forest.num_tokens, 4, dtype=torch.float64) for _ in range(3))
    out = ForestPlan(forest).attend(
        SimpleNamespace(layer_idx=0), q, k, v, scaling=None, sliding_window=100
    )  # type: ignore[arg-type]
    expected = eager_attention(q, k, v, visible(forest, 100), None).transpose(1, 2)
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("window", [None, 4])
def test_rules_of_flex_attention(window: int | None, groups: Groups) -> None:
    forest = forest_of(groups)
    plan = ForestPlan(forest)
    size = forest.num_tokens
    mask = create_mask(plan.mask_mod(window), 1, 1, size, size, device="cpu")
    assert torch.equal(mask[0, 0], visible(forest, window))
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, size, 16) for _ in range(3))
    found = flex_attention(
        q, k, v, score_mod=soft_capping(1.5), block_mask=plan.block_mask(window), scale=0.5
    )
    torch.testing.assert_close(
        found, eager_attention(q, k, v, visible(forest, window), 0.5, 1.5), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("window", [None, 200])
def test_block_masks_are_those_of_the_dense_mask(window: int | None) -> None:
    """By blocks of 128, for runs that end within blocks, at their edges and after several."""
    draw = np.random.default_rng(0)
    trees = []
    for lengths in ([400, 30, 300], [128, 128], [5], [1, 700, 2, 90], [64, 64, 64]):
        trunk = draw.integers(0, 50, lengths[0])
        group = [np.concatenate([trunk, draw.integers(0, 50, n)]) for n in lengths[1:]] or [trunk]
        trees.append([TokenSequence(ids, np.arange(len(ids)) > 0) for ids in group])
    for groups in (trees, trees[2:3], [[trees[0][0]]]):
        forest = forest_of(groups)
        plan, size = ForestPlan(forest), forest.num_tokens
        rule = plan.mask_mod(window)
        dense = create_mask(rule, 1, 1, size, size, device="cpu")[0, 0]
        mask = plan.block_mask(window)
        assert mask.shape[-2:] == (size, size)
        count = -(-size // 128)
        tiles = torch.nn.functional.pad(dense, (0, count * 128 - size) * 2)
        tiles = tiles.view(count, 128, count, 128).transpose(1, 2).flatten(2)
        full = torch.zeros(count, count, dtype=torch.bool)
        part = torch.zeros(count, count, dtype=torch.bool)
        for row in range(count):
            number = int(mask.kv_num_blocks[0, 0, row])
            part[row, mask.kv_indices[0, 0, row, :number].long()] = True
            number = int(mask.full_kv_num_blocks[0, 0, row])
            full[row, mask.full_kv_indices[0, 0, row, :number].long()] = True
        assert not (part & full).any()
        # What is seen lies in blocks that are named, and whole blocks are seen whole.
        assert bool(((part | full) >= tiles.any(-1)).all())
        edge = torch.zeros(count, 1, dtype=torch.bool)
        edge[-1] = size % 128 > 0  # the last queries' block has rows beyond the end
        assert bool((full <= (tiles.all(-1) | edge)).all())
        if window is None:
            assert torch.equal(part | full, tiles.any(-1) | torch.eye(count, dtype=torch.bool))


@pytest.mark.parametrize("window", [None, 200])
def test_attention_over_several_blocks(window: int | None) -> None:
    draw = np.random.default_rng(0)
    trunk = draw.integers(0, 50, 300)
    group = [np.concatenate([trunk, draw.integers(0, 50, n)]) for n in (150, 60)]
    forest = forest_of([[TokenSequence(ids, np.arange(len(ids)) > 0) for ids in group]])
    plan, size = ForestPlan(forest), forest.num_tokens
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, size, 16) for _ in range(3))
    mixed = flex_attention(q, k, v, block_mask=plan.block_mask(window), scale=0.5)
    expected = eager_attention(q, k, v, visible(forest, window), 0.5)
    torch.testing.assert_close(mixed, expected, rtol=1e-5, atol=1e-5)


def test_flex_attention_that_cannot_be_compiled_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torch._dynamo.exc import TorchDynamoException

    calls: list[Any] = []

    def compiled(function: Any, **options: Any) -> Any:
        def fail(*inputs: Any) -> Any:
            calls.append(inputs)
            raise TorchDynamoException("no C compiler")

        return fail

    monkeypatch.setattr(torch, "compile", compiled)
    flex = CompiledFlex()
    with pytest.warns(UserWarning, match="no C compiler"):
        assert flex(1, 2) is None
    assert calls == [(1, 2)] and "no C compiler" in str(flex.why_not)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["Llama", "Gemma2", "Mistral"])
def test_cuda_equals_cpu(name: str, groups: Groups) -> None:
    hf = tiny_hf(name, torch.float32, head_dim=32, hidden_size=128)
    forest = forest_of(groups)
    found, grads = [], []
    for device in ("cpu", "cuda"):
        model = LanguageModel(copy.deepcopy(hf).to(device), None)  # type: ignore[arg-type]
        model.share_trunks()
        assert model.shares_trunks, model.why_unshared
        logprobs = model.forward(forest)["logprobs"]
        logprobs.sum().backward()
        found.append(logprobs.detach().cpu())
        grads.append([p.grad.cpu() for p in model.hf.parameters()])
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-3)
    for cpu, cuda in zip(*grads):
        assert float((cuda - cpu).abs().max()) <= 1e-2 * float(cpu.abs().max().clamp_min(1e-3))


def test_order_of_trees_and_splits_do_not_matter(tiny: Make, groups: Groups) -> None:
    model = tiny("Qwen3")

    def by_row(forests: list[Forest]) -> dict[str, torch.Tensor]:
        found = {}
        for forest in forests:
            logprobs = model.forward(forest)["logprobs"]
            for index, row in enumerate(forest.rows):
                found[row] = logprobs[forest.sequence == index]
        return found

    trees = [Tree.build(group, min_shared=1) for group in groups]
    with torch.no_grad():
        whole = by_row([Forest.pack(trees)])
        for other in ([Forest.pack(trees[::-1])], Batch(trees).split(20), Batch(trees).split(1)):
            again = by_row(other)
            assert again.keys() == whole.keys()
            for row, logprobs in whole.items():
                torch.testing.assert_close(again[row], logprobs, rtol=1e-10, atol=1e-10)


def test_sharing_less_gives_the_same_gradient(tiny: Make, groups: Groups) -> None:
    gradients = []
    for min_shared in (1, 1000):
        model = tiny("GPT2")
        model.forward(forest_of(groups, min_shared))["logprobs"].sum().backward()
        gradients.append([p.grad for p in model.hf.parameters()])
    for a, b in zip(*gradients):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["Llama", "Gemma2", "Mistral", "GPT2", "GptOss"])
def test_without_a_plan_padding_is_masked_as_usual(name: str) -> None:
    ids = torch.arange(24).view(2, 12) % 53
    mask = torch.ones(2, 12, dtype=torch.long)
    mask[0, :5] = 0  # padding on the left, as in generation
    positions = (mask.cumsum(-1) - 1).clamp_min(0)
    hf = tiny_hf(name, torch.float32)
    register()
    hf.set_attn_implementation("posttrain")
    with torch.no_grad():
        logits = hf(input_ids=ids, attention_mask=mask, position_ids=positions).logits
        plain = own_attention(name, torch.float32)
        torch.testing.assert_close(
            logits[0, 5:], plain(input_ids=ids[:1, 5:]).logits[0], rtol=1e-4, atol=1e-4
        )
        torch.testing.assert_close(
            logits[1], plain(input_ids=ids[1:]).logits[0], rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("name", ["Gemma3Text", "Gemma2", "GptOss"])
def test_generation_with_a_cache_works_without_a_plan(name: str, tiny: Make) -> None:
    ids = torch.arange(9)[None]
    settings: dict[str, Any] = {
        "max_new_tokens": 8,
        "do_sample": False,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    written = tiny(name, torch.float32).hf.generate(ids, **settings)
    assert torch.equal(written, own_attention(name, torch.float32).generate(ids, **settings))


def test_prefill_hands_out_keys_and_values(tiny: Make, groups: Groups) -> None:
    model = tiny("Llama")
    forest = forest_of(groups)
    with torch.no_grad():
        hidden, plan = model.prefill(forest)
        ids = forest.unshared().ids[:1, : int(forest.positions[forest.last[0]]) + 1]
        cache = model.base(input_ids=ids, use_cache=True)
    path = torch.nonzero(forest.ends[: int(forest.last[0]) + 1] > forest.last[0])[:, 0]
    assert sorted(plan.kv) == [0, 1]
    for layer, (key, value) in plan.kv.items():
        torch.testing.assert_close(key[:, :, path], cache.past_key_values.layers[layer].keys)
        torch.testing.assert_close(value[:, :, path], cache.past_key_values.layers[layer].values)
    torch.testing.assert_close(hidden[path], cache.last_hidden_state[0])


def test_dropout_in_attention_is_applied(tiny: Make, groups: Groups) -> None:
    model = tiny("GPT2", attn_pdrop=0.5, resid_pdrop=0.0, embd_pdrop=0.0).train()
    forest = forest_of(groups)
    torch.manual_seed(0)
    first = model.forward(forest)["logprobs"]
    assert not torch.equal(first, model.forward(forest)["logprobs"])
    torch.manual_seed(0)
    assert torch.equal(first, model.forward(forest)["logprobs"])


def test_what_a_plan_cannot_do_is_refused(groups: Groups) -> None:
    forest = forest_of(groups)
    q = torch.zeros(1, 1, forest.num_tokens, 4)
    module: Any = SimpleNamespace(layer_idx=0)
    with pytest.raises(ModelError, match="relative position"):
        ForestPlan(forest).attend(module, q, q, q, scaling=None, position_bias=q)
    with pytest.raises(ModelError, match="keys for a forest"):
        ForestPlan(forest).attend(module, q, q[:, :, 1:], q[:, :, 1:], scaling=None)
    assert without_mask().shape == (1, 1, 1, 1)
