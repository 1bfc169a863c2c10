"""The moving average of weights: by hand, exchanged exactly, saved and restored."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from posttrain.errors import CheckpointError
from posttrain.training.average import WeightAverage


def test_by_hand() -> None:
    """From 0 with decay 3/4 after weights 4, 8: 1, then 3/4 + 2 = 2.75."""
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    average = WeightAverage([weight], [weight], 0.75)
    for value, expected in ((4.0, 1.0), (8.0, 2.75)):
        with torch.no_grad():
            weight.fill_(value)
        average.update()
        assert float(average.values[0]) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_come_back_exactly(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(50).to(dtype))
    master = weight if dtype == torch.float32 else weight.detach().float() + 1e-4
    average = WeightAverage([weight], [master], 0.5)
    with torch.no_grad():
        master += 1.0
        weight.copy_(master)
    average.update()
    before, value = weight.detach().clone(), average.values[0].clone()
    with average.applied():
        assert average.is_applied
        assert torch.equal(weight, value.to(dtype)) and not torch.equal(weight, before)
    assert torch.equal(weight, before) and torch.equal(average.values[0], value)


def test_an_error_within_gives_the_weights_back() -> None:
    weight = nn.Parameter(torch.ones(3))
    average = WeightAverage([weight], [weight], 0.5)
    with torch.no_grad():
        weight.fill_(5.0)
    with pytest.raises(RuntimeError), average.applied():
        raise RuntimeError
    assert weight.tolist() == [5.0] * 3


def test_a_state_is_restored_and_a_missing_one_begins_at_the_weights() -> None:
    weight = nn.Parameter(torch.ones(3))
    average = WeightAverage([weight], [weight], 0.5)
    average.load_state_dict({0: torch.full((3,), 2.0)})
    assert average.values[0].tolist() == [2.0] * 3
    average.load_state_dict({})
    assert average.values[0].tolist() == [1.0] * 3
    with pytest.raises(CheckpointError):
        average.load_state_dict({0: torch.ones(4)})
