"""The global random generators of a training."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch

from posttrain.world import World


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators, which dropout and users' functions draw from; give them back as
    they were.
    """
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed_all(seed)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


class ShareSeeds:
    """The hook that seeds the generators of a process which is not the main one, anew after each
    step.

    The generators of the main process run on, and checkpoints hold them. Those of the others are a
    function of (seed, rank, step), so that a resume needs nothing of them.
    """

    def __init__(self, world: World, seed: int) -> None:
        self.world, self.seed = world, seed

    def __call__(self, step: int, metrics: dict[str, float]) -> None:
        if not self.world.is_main:
            seed_all(self.world.seed(self.seed, step))


def seed_all(seed: int) -> None:
    """Seed the global generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
