"""Rows side by side under the prompts that they continue."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from posttrain.engines.seats import Seats

CASES = {
    "even, in order": [0, 0, 1, 1],
    "even, mixed": [1, 0, 0, 1],
    "one row each": [0, 1, 2],
    "one row each, reversed": [2, 1, 0],
    "uneven": [1, 0, 1, 2, 1],
    "one prompt": [0, 0, 0],
}


def rows(*values: float) -> Tensor:
    """[R, 1, 1, 1]"""
    return torch.tensor(values)[:, None, None, None]


def test_rows_of_a_prompt_sit_side_by_side_and_empty_seats_hold_zeros() -> None:
    seats = Seats(torch.tensor([1, 0, 1]), 2)
    assert seats.seat(rows(5.0, 6.0, 7.0)).flatten(1).tolist() == [[6.0, 0.0], [5.0, 7.0]]


def test_the_heads_of_a_group_stay_together() -> None:
    """Two rows of one prompt, one head of keys and two queries for it."""
    x = torch.tensor([[[[1.0], [2.0]]], [[[3.0], [4.0]]]])
    assert Seats(torch.tensor([0, 0]), 1).seat(x).shape == (1, 1, 4, 1)
    assert Seats(torch.tensor([0, 0]), 1).seat(x).flatten().tolist() == [1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize("prompt_of", CASES.values(), ids=CASES)
def test_unseat_undoes_seat(prompt_of: list[int]) -> None:
    seats = Seats(torch.tensor(prompt_of), max(prompt_of) + 1)
    x = torch.randn(len(prompt_of), 2, 3, 4)
    seated = seats.seat(x)
    widest = max(prompt_of.count(p) for p in prompt_of)
    assert seated.shape == (max(prompt_of) + 1, 2, widest * 3, 4)
    assert torch.equal(seats.unseat(seated, 3), x)


@pytest.mark.parametrize("prompt_of", CASES.values(), ids=CASES)
def test_products_with_a_prompts_matrix_are_those_of_each_row(prompt_of: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    prompts = max(prompt_of) + 1
    query = torch.randn(len(prompt_of), 2, 3, 4, generator=generator, dtype=torch.float64)
    keys = torch.randn(prompts, 2, 5, 4, generator=generator, dtype=torch.float64)
    seats = Seats(torch.tensor(prompt_of), prompts)
    scores = seats.unseat(seats.seat(query) @ keys.transpose(-1, -2), 3)
    expected = torch.stack([q @ keys[p].transpose(-1, -2) for q, p in zip(query, prompt_of)])
    torch.testing.assert_close(scores, expected, rtol=1e-12, atol=1e-12)


def test_a_row_needs_a_prompt_that_is_there() -> None:
    with pytest.raises((IndexError, RuntimeError)):
        Seats(torch.tensor([0, 2]), 2).seat(rows(1.0, 2.0))
