"""Chunked log-probabilities and entropies against torch.log_softmax."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from posttrain.kernels import products
from posttrain.models import logprobs as module
from posttrain.models.logprobs import Head, token_logprobs

M, D, V = 11, 6, 17


def tensors(
    dtype: torch.dtype = torch.float64,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden, weight, bias = (
        torch.randn(*s, generator=generator, dtype=torch.float64) for s in ((M, D), (V, D), (V,))
    )
    target = torch.randint(0, V, (M,), generator=generator)
    return hidden.to(dtype), weight.to(dtype), bias.to(dtype), target


def dense(
    hidden: torch.Tensor, head: Head, target: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    logits = hidden @ head.weight.t()
    if head.bias is not None:
        logits = logits + head.bias
    logits = logits * head.scale
    if head.softcap is not None:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    every = torch.log_softmax(logits / temperature, -1)
    return every.gather(-1, target[:, None])[:, 0], -(every.exp() * every).sum(-1)


@pytest.mark.parametrize("rows", [1, 3, 11, 100])
@pytest.mark.parametrize("softcap", [None, 1.7])
@pytest.mark.parametrize("with_bias", [False, True])
def test_values_and_gradients(rows: int, softcap: float | None, with_bias: bool) -> None:
    hidden, weight, bias, target = tensors()
    results = []
    for chunked in (True, False):
        h, w, b = (x.clone().requires_grad_() for x in (hidden, weight, bias))
        head = Head(w, b if with_bias else None, softcap, 0.6)
        if chunked:
            logprobs, entropy, _ = token_logprobs(
                h, head, target, temperature=0.8, entropy="gradient", chunk_bytes=rows * V * 8
            )
            assert entropy is not None
        else:
            logprobs, entropy = dense(h, head, target, 0.8)
        weights = torch.linspace(-1, 1, M, dtype=torch.float64)
        ((weights * logprobs).sum() + (weights.square() * entropy).sum()).backward()
        results.append([logprobs, entropy, h.grad, w.grad, *([b.grad] if with_bias else [])])
    for ours, theirs in zip(*results):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("keep_bytes", [0, None], ids=["again", "kept"])
@pytest.mark.parametrize("entropy", ["none", "value"])
@pytest.mark.parametrize("rows", [1, 4, 100])
def test_gradients_of_logprobs_alone(keep_bytes: int | None, entropy: Any, rows: int) -> None:
    """With the probabilities kept and without, twice through the same graph."""
    hidden, weight, bias, target = tensors()
    grads = []
    for chunked in (True, False):
        h, w, b = (x.clone().requires_grad_() for x in (hidden, weight, bias))
        head = Head(w, b, None, 0.6)
        if chunked:
            logprobs, told, correct = token_logprobs(
                h,
                head,
                target,
                temperature=0.8,
                entropy=entropy,
                chunk_bytes=rows * V * 8,
                keep_bytes=keep_bytes,
            )
            assert (told is None) == (entropy == "none")
            if told is not None:
                assert not told.requires_grad
                torch.testing.assert_close(told, dense(h, head, target, 0.8)[1])
            expected = ((hidden @ weight.t() + bias) * 0.6).argmax(-1) == target
            assert torch.equal(correct, expected) and not correct.requires_grad
        else:
            logprobs, _ = dense(h, head, target, 0.8)
        loss = (torch.linspace(-1, 1, M, dtype=torch.float64) * logprobs).sum()
        loss.backward(retain_graph=True)
        loss.backward()
        grads.append([logprobs, h.grad, w.grad, b.grad])
    for ours, theirs in zip(*grads):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_correct_is_the_share_of_likeliest_tokens() -> None:
    hidden, weight, _, _ = tensors(torch.float32)
    likeliest = (hidden @ weight.t()).argmax(-1)
    target = torch.where(torch.arange(M) % 2 == 0, likeliest, (likeliest + 1) % V)
    assert token_logprobs(hidden, Head(weight), target).correct.tolist() == [
        i % 2 == 0 for i in range(M)
    ]


def test_gradcheck() -> None:
    hidden, weight, bias, target = tensors()

    def function(h: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> Any:
        scores = token_logprobs(
            h,
            Head(w, b, 2.0, 1.3),
            target,
            temperature=1.5,
            entropy="gradient",
            chunk_bytes=4 * V * 8,
        )
        return scores.logprobs, scores.entropy

    assert torch.autograd.gradcheck(
        function, tuple(x.requires_grad_() for x in (hidden, weight, bias))
    )


def test_without_entropy_and_without_targets() -> None:
    hidden, weight, _, target = tensors(torch.float32)
    logprobs, entropy, _ = token_logprobs(hidden, Head(weight), target)
    assert entropy is None
    assert logprobs.dtype == torch.float32
    none = token_logprobs(hidden[:0].requires_grad_(), Head(weight), target[:0]).logprobs
    assert none.shape == (0,)
    none.sum().backward()


def test_frozen_weight_gets_no_gradient() -> None:
    hidden, weight, _, target = tensors(torch.float32)
    hidden.requires_grad_()
    token_logprobs(hidden, Head(weight), target).logprobs.sum().backward()
    assert weight.grad is None
    assert hidden.grad is not None


def test_half_precision_is_accumulated_in_float32() -> None:
    hidden, weight, _, target = tensors(torch.bfloat16)
    h, w = hidden.requires_grad_(), weight.requires_grad_()
    logprobs, entropy, _ = token_logprobs(
        h, Head(w), target, entropy="value", chunk_bytes=3 * V * 4
    )
    exact, exact_entropy = dense(h.double().detach(), Head(w.double().detach()), target, 1.0)
    assert logprobs.dtype == torch.float32
    torch.testing.assert_close(logprobs.double(), exact, rtol=1e-5, atol=1e-5)
    assert entropy is not None
    torch.testing.assert_close(entropy.double(), exact_entropy, rtol=1e-5, atol=1e-5)
    logprobs.sum().backward()
    assert h.grad is not None and h.grad.dtype == torch.bfloat16
    assert w.grad is not None and w.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("keep_bytes", [0, None], ids=["again", "kept"])
def test_gradients_in_half_precision_hold_where_a_token_is_all_but_certain(
    keep_bytes: int | None,
) -> None:
    """1 - p is 1e-3 there: less than bfloat16 resolves beside 1, so that p must not be rounded
    before it is subtracted.
    """
    hidden, weight, _, target = tensors(torch.bfloat16)
    hidden = (
        hidden + 6 * weight[target] / weight[target].float().norm(dim=-1, keepdim=True).bfloat16()
    )
    h, w = hidden.requires_grad_(), weight.requires_grad_()
    scores = token_logprobs(h, Head(w), target, chunk_bytes=3 * V * 4, keep_bytes=keep_bytes)
    scores.logprobs.sum().backward()
    exact_h, exact_w = (x.detach().double().requires_grad_() for x in (h, w))
    dense(exact_h, Head(exact_w), target, 1.0)[0].sum().backward()
    assert (scores.logprobs.exp() > 0.998).sum() >= 3 and h.grad is not None and w.grad is not None
    for found, exact in ((h.grad, exact_h.grad), (w.grad, exact_w.grad)):
        assert exact is not None
        gap = (found.double() - exact).norm(dim=-1) / exact.norm(dim=-1)
        assert gap.max() < 0.03


@pytest.mark.parametrize("softcap", [None, 1.7])
@pytest.mark.parametrize("entropy", ["none", "gradient"])
@pytest.mark.parametrize(
    "kinds",
    [
        (torch.bfloat16, torch.bfloat16),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.bfloat16),
    ],
)
def test_gradients_in_half_and_mixed_precision(
    kinds: tuple[torch.dtype, torch.dtype],
    entropy: Any,
    softcap: float | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A head with all its parts, its weight taken in blocks of 5 tokens; factors so small that
    float16 would lose them.
    """
    monkeypatch.setattr(module, "_BLOCK_BYTES", 5 * 4 * D)
    hidden, weight, bias, target = tensors()
    h, w, b = (
        x.to(kind).requires_grad_() for x, kind in zip((hidden, weight, bias), (*kinds, kinds[1]))
    )
    exact = [x.detach().double().requires_grad_() for x in (h, w, b)]
    scores = token_logprobs(
        h, Head(w, b, softcap, 0.6), target, temperature=0.8, entropy=entropy, chunk_bytes=4 * V * 4
    )
    logprobs, entropies = dense(exact[0], Head(exact[1], exact[2], softcap, 0.6), target, 0.8)
    torch.testing.assert_close(scores.logprobs.double(), logprobs, rtol=1e-4, atol=1e-4)
    (
        1e-7 * (scores.logprobs.sum() + (0 if scores.entropy is None else 2 * scores.entropy.sum()))
    ).backward()
    (1e-7 * (logprobs.sum() + (0 if scores.entropy is None else 2 * entropies.sum()))).backward()
    for found, expected in zip((h, w, b), exact):
        assert (
            found.grad is not None and expected.grad is not None and found.grad.dtype == found.dtype
        )
        assert (found.grad.double() - expected.grad).norm() < 0.01 * expected.grad.norm()


def test_nothing_is_kept_where_no_gradient_is_recorded() -> None:
    """A model under no_grad still has parameters that require gradients."""
    products._family()  # asked once in a process, which makes tensors of its own
    hidden, weight, _, target = tensors(torch.float32)
    weight.requires_grad_()
    for recording, most in ((True, M * V), (False, 7 * V)):
        with LargestTensor() as seen, torch.set_grad_enabled(recording):
            token_logprobs(hidden, Head(weight), target, chunk_bytes=7 * V * 4)
        assert seen.elements == most


def test_extreme_logits_stay_finite() -> None:
    hidden, weight, _, target = tensors(torch.float32)
    h = (hidden * 1e4).requires_grad_()
    logprobs, entropy, _ = token_logprobs(h, Head(weight), target, entropy="gradient")
    assert entropy is not None
    (logprobs.sum() + entropy.sum()).backward()
    assert (
        torch.isfinite(logprobs).all()
        and torch.isfinite(entropy).all()
        and torch.isfinite(h.grad).all()
    )
    assert (entropy >= -1e-3).all()


class LargestTensor(TorchDispatchMode):
    """Most elements of any tensor made by an operation."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.elements = max(self.elements, leaf.numel())
        return result


def test_no_logits_tensor_is_made_above_the_bound() -> None:
    targets, vocabulary, width = 400, 1000, 8
    hidden = torch.randn(targets, width, requires_grad=True)
    weight = torch.randn(vocabulary, width, requires_grad=True)
    target = torch.randint(0, vocabulary, (targets,))
    with LargestTensor() as largest:
        token_logprobs(
            hidden,
            Head(weight),
            target,
            entropy="value",
            chunk_bytes=20 * vocabulary * 4,
            keep_bytes=0,
        ).logprobs.sum().backward()
    assert largest.elements == 20 * vocabulary


def test_temperature_must_be_above_zero() -> None:
    hidden, weight, _, target = tensors()
    with pytest.raises(ValueError, match="temperature is 0"):
        token_logprobs(hidden, Head(weight), target, temperature=0)
