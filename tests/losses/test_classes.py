"""Cross-entropy of classes against torch's, and by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from posttrain.losses.classes import class_cross_entropy, class_means

CASES: list[tuple[str, dict[str, Any]]] = [
    ("class_cross_entropy", {}),
    ("class_cross_entropy", {"label_smoothing": 0.2}),
]


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_equals_torch_over_means(smoothing: float) -> None:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 4, generator=draw, requires_grad=True)
    sequence = torch.tensor([0, 0, 0, 1, 2, 2, 2])
    place = torch.tensor([3, 0, 1])
    value, metrics = class_cross_entropy(logits, place, sequence, 3, label_smoothing=smoothing)
    z = torch.stack([logits[:3].mean(0), logits[3], logits[4:].mean(0)])
    expected = cross_entropy(z, place, reduction="none", label_smoothing=smoothing)
    torch.testing.assert_close(value, expected)
    assert metrics["accuracy"].tolist() == (z.argmax(1) == place).float().tolist()
    (own,) = torch.autograd.grad(value.sum(), logits)
    (theirs,) = torch.autograd.grad(expected.sum(), logits)
    torch.testing.assert_close(own, theirs)


def test_equal_classes_cost_log_of_their_number() -> None:
    value, _ = class_cross_entropy(torch.zeros(1, 5), torch.tensor([2.0]), torch.tensor([0]), 1)
    assert value.tolist() == pytest.approx([torch.tensor(5.0).log().item()])


def test_means_of_sequences() -> None:
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    assert class_means(rows, torch.tensor([0, 0, 1]), 2).tolist() == [[2, 3], [5, 6]]
