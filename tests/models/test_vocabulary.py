"""Functions of whole distributions: chunked and recomputed, yet equal in value and gradient to
the plain computation.
"""

from __future__ import annotations

import pytest
import torch

from posttrain.errors import ModelError
from posttrain.models.logprobs import Head
from posttrain.models.vocabulary import Vocabulary, forward_kl, log_collision, reverse_kl


def _models(
    rows: int = 11, depth: int = 6, vocab: int = 13
) -> dict[str, tuple[torch.Tensor, Head]]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)

    return {
        name: (draw(rows, depth), Head(draw(vocab, depth)))
        for name in ("distribution", "ref_distribution")
    }


def _plain(
    models: dict[str, tuple[torch.Tensor, Head]], temperature: float
) -> dict[str, torch.Tensor]:
    return {
        k: torch.log_softmax(h @ head.weight.T / temperature, -1) for k, (h, head) in models.items()
    }


@pytest.mark.parametrize("chunk_bytes", [1, 300, 1 << 20])
def test_value_and_gradient_equal_the_plain_computation(chunk_bytes: int) -> None:
    models = _models()
    leaves = [x for hidden, head in models.values() for x in (hidden, head.weight)]
    weights = torch.linspace(-1, 2, 11, dtype=torch.float64)

    def mixed(
        distribution: torch.Tensor, weights: torch.Tensor, ref_distribution: torch.Tensor
    ) -> tuple:
        value = weights * reverse_kl(distribution, ref_distribution) + forward_kl(
            distribution, ref_distribution
        )
        return value, {"told": value.detach()}

    vocabulary = Vocabulary(models, 0.7, chunk_bytes=chunk_bytes)
    value, told = vocabulary.apply(
        mixed, ("distribution", "weights", "ref_distribution"), {"weights": weights}
    )
    found = torch.autograd.grad(value.square().sum(), leaves)
    plain = _plain(models, 0.7)
    expected, _ = mixed(plain["distribution"], weights, plain["ref_distribution"])
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(told["told"], expected.detach())
    for a, b in zip(found, torch.autograd.grad(expected.square().sum(), leaves), strict=True):
        torch.testing.assert_close(a, b)


def test_by_hand() -> None:
    """p = (1/2, 1/2), q = (1/4, 3/4): KL(p||q) = log 2 - log(3)/2 = 0.143841; KL(q||p) =
    0.130812; sum p^2 = 1/2.
    """
    p, q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    assert float(reverse_kl(p, q)) == pytest.approx(0.1438410, abs=1e-6)
    assert float(forward_kl(p, q)) == pytest.approx(0.1308121, abs=1e-6)
    assert float(log_collision(p)) == pytest.approx(-0.6931472, abs=1e-6)


def test_padding_of_a_vocabulary_is_left_out_and_other_vocabularies_are_refused() -> None:
    def head(vocab: int) -> tuple[torch.Tensor, Head]:
        return torch.ones(2, 3), Head(torch.arange(vocab * 3.0).reshape(vocab, 3) / 1000)

    found = Vocabulary({"distribution": head(200), "teacher_distribution": head(202)})
    kl = found.apply(forward_kl, ("distribution", "teacher_distribution"), {})
    torch.testing.assert_close(kl, torch.zeros(2))
    with pytest.raises(ModelError, match="vocabularies differ"):
        Vocabulary({"distribution": head(200), "teacher_distribution": head(300)})


def test_no_targets() -> None:
    head = Head(torch.ones(4, 3))
    assert Vocabulary({"distribution": (torch.ones(0, 3), head)}).derived(
        "log_collision"
    ).shape == (0,)
