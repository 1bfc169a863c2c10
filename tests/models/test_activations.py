"""Activations that are kept elsewhere: gradients to the bit, and which tensors are copied."""

from __future__ import annotations

import torch

from posttrain.models.activations import offloaded


def gradients(layer: torch.nn.Linear, x: torch.Tensor, min_bytes: int | None) -> list[torch.Tensor]:
    layer.zero_grad()
    if min_bytes is None:
        layer(x).sin().square().sum().backward()
    else:
        with offloaded(layer.parameters(), min_bytes=min_bytes):
            loss = layer(x).sin().square().sum()
        loss.backward()
    return [p.grad.clone() for p in layer.parameters() if p.grad is not None]


def test_gradients_are_the_same_to_the_bit() -> None:
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(5, 4), torch.randn(7, 5)
    plain = gradients(layer, x, None)
    for min_bytes in (0, 1 << 20):
        assert all(map(torch.equal, gradients(layer, x, min_bytes), plain))


def test_large_tensors_are_copied_and_weights_and_small_ones_are_not() -> None:
    weight = torch.nn.Parameter(torch.ones(8, 8))
    small, large = torch.ones(2, 8, requires_grad=True), torch.ones(64, 8, requires_grad=True)
    with offloaded([weight], min_bytes=1024):
        below, above = small @ weight, large @ weight
    for product, given, is_copied in ((below, small, False), (above, large, True)):
        node = product.grad_fn
        assert (node._saved_self.data_ptr() != given.data_ptr()) == is_copied  # type: ignore[union-attr]
        assert node._saved_mat2.data_ptr() == weight.data_ptr()  # type: ignore[union-attr]
