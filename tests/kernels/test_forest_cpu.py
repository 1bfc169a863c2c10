"""Attention over a forest by fused kernels, against a dense mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from posttrain.data.forest import Forest, TokenSequence, Tree
from posttrain.kernels.forest_cpu import ForestShape, fused_attention, merged_attention
from posttrain.models.attention import eager_attention


def branching() -> Forest:
    """Three levels of branches, runs long enough for a kernel call of their own, and a chain."""
    draw = np.random.default_rng(0)

    def some(count: int) -> list[int]:
        return draw.integers(0, 90, count).tolist()

    stem, fork, twig = some(9), some(4), some(3)
    lists = [stem + some(5), stem + fork + some(60), stem + fork + twig + some(6)]
    lists += [stem + fork + twig + some(1), stem]
    sequences = [TokenSequence(np.array(ids), np.arange(len(ids)) > 0) for ids in lists]
    chain = TokenSequence(np.array(some(11)), np.arange(11) > 0)
    trees = [Tree.build(sequences, min_shared=1), Tree.build([chain])]
    return Forest.pack(trees)


def visible(forest: Forest) -> torch.Tensor:
    """bool [N, N]: k <= q < ends[k]."""
    place = torch.arange(forest.num_tokens)
    return (place[None] <= place[:, None]) & (place[:, None] < forest.ends[None])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_merged_kernels_against_a_dense_mask(dtype: torch.dtype, kv_heads: int) -> None:
    forest = branching()
    torch.manual_seed(0)
    q, k, v = (
        torch.randn(1, heads, forest.num_tokens, 8, dtype=dtype)
        for heads in (4, kv_heads, kv_heads)
    )
    given = torch.randn(1, forest.num_tokens, 4, 8, dtype=dtype)
    ours = [x.clone().requires_grad_() for x in (q, k, v)]
    theirs = [x.double().requires_grad_() for x in (q, k, v)]
    out = merged_attention(*ours, ForestShape(forest.ends.numpy()), 0.7)
    out.backward(given)
    expected = eager_attention(*theirs, visible(forest), 0.7).transpose(1, 2)
    expected.backward(given.double())
    bound = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 5e-2}[dtype]
    torch.testing.assert_close(out.double(), expected, rtol=bound, atol=bound)
    for a, b in zip(ours, theirs):
        torch.testing.assert_close(
            a.grad.double(), b.grad, rtol=bound, atol=bound * float(b.grad.abs().max())
        )


def test_runs_hang_together_as_the_tokens_do() -> None:
    """The ancestry of a run covers what its first token sees."""
    forest = branching()
    shape = ForestShape(forest.ends.numpy())
    mask = visible(forest)
    for run, start in enumerate(shape.starts):
        path = [np.arange(shape.starts[r], shape.stops[r]) for r in shape.ancestry(run)[:-1]]
        seen = np.concatenate([*path, [start]])
        assert torch.nonzero(mask[start])[:, 0].tolist() == seen.tolist()
    alone = [b for b in shape.buckets if b.start >= 0]
    assert alone and sum(b.runs for b in shape.buckets) == len(shape.starts)


def test_the_log_sum_exp_is_that_of_the_scores() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, 4, 8, generator=generator) for _ in range(3))
    out, lse = fused_attention(q, k, v, attn_mask=None, scale=0.5)
    scores = (q @ k.transpose(-1, -2)) * 0.5
    torch.testing.assert_close(lse, scores.logsumexp(-1))
    torch.testing.assert_close(out, scores.softmax(-1) @ v)
