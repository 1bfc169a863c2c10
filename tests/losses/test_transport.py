"""Losses that compare pairs as distributions: sorted by hand."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import logsigmoid

from posttrain.losses.transport import aot, aot_unpaired

CHOSEN, REJECTED = torch.tensor([3.0, 1.0]), torch.tensor([0.0, 2.0])
REF_CHOSEN, REF_REJECTED = torch.tensor([0.0, 1.0]), torch.tensor([0.0, 0.0])


def test_sorted_margins() -> None:
    """Margins -1, 3 against the reference's 0, 1."""
    value, _ = aot(CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED, beta=0.5)
    expected = -logsigmoid(0.5 * torch.tensor([-1.0 - 0.0, 3.0 - 1.0]))
    assert torch.allclose(value, expected)


def test_sorted_log_ratios() -> None:
    """Log-ratios 0, 3 of the chosen against 0, 2 of the rejected."""
    value, _ = aot_unpaired(CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED, beta=0.5)
    expected = -logsigmoid(0.5 * torch.tensor([0.0 - 0.0, 3.0 - 2.0]))
    assert torch.allclose(value, expected)


@pytest.mark.parametrize("loss", [aot, aot_unpaired])
def test_the_order_of_the_pairs_does_not_matter(loss: object) -> None:
    inputs = (CHOSEN, REJECTED, REF_CHOSEN, REF_REJECTED)
    value, _ = loss(*inputs)  # type: ignore[operator]
    swapped, _ = loss(*(x.flip(0) for x in inputs))  # type: ignore[operator]
    assert torch.equal(value, swapped)
