"""The global generators within a training."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from posttrain.training.seeding import ShareSeeds, seeded
from posttrain.world import World


def drawn() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(1))


def test_a_seed_fixes_what_is_drawn() -> None:
    runs = []
    for seed in (3, 3, 4):
        with seeded(seed):
            runs.append(drawn())
    assert runs[0] == runs[1]
    assert all(a != b for a, b in zip(runs[0], runs[2], strict=True))


@pytest.mark.parametrize("fails", [False, True])
def test_generators_go_on_as_if_nothing_had_been_drawn(fails: bool) -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    first, second = drawn(), drawn()
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    assert drawn() == first
    try:
        with seeded(9):
            drawn()
            if fails:
                raise ZeroDivisionError
    except ZeroDivisionError:
        assert fails
    assert drawn() == second


def test_seeds_beyond_32_bits() -> None:
    with seeded(2**40 + 5):
        assert 0 <= drawn()[1] < 1


def test_the_main_process_draws_on_and_others_anew_after_each_step() -> None:
    class Other(World):
        rank, size = 1, 2

    metrics: dict[str, float] = {}
    with seeded(3):
        first = drawn()
        ShareSeeds(World.alone(), 3)(1, metrics)
        second = drawn()
    with seeded(3):
        assert (drawn(), drawn()) == (first, second)
    draws = []
    for step in (1, 1, 2):
        with seeded(3):
            ShareSeeds(Other(), 3)(step, metrics)
            draws.append(drawn())
    assert draws[0] == draws[1] != draws[2] and second not in draws and not metrics
