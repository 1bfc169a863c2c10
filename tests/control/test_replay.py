"""The ring of transitions."""

from __future__ import annotations

import numpy as np
import pytest

from posttrain.control.replay import Replay
from posttrain.errors import ConfigError, DataError


def rows(*numbers: float) -> dict[str, np.ndarray]:
    column = np.array(numbers)
    return {
        "states": column[:, None],
        "actions": column[:, None],
        "rewards": column,
        "next_states": column[:, None] + 1,
        "ends": np.zeros(len(column)),
    }


def test_the_oldest_make_room() -> None:
    replay = Replay(3, 1, 1)
    replay.add(**rows(1, 2))
    replay.add(**rows(3, 4))
    assert len(replay) == 3
    assert sorted(replay.columns["rewards"].tolist()) == [2, 3, 4]
    batch = replay.sample(50, np.random.default_rng(0))
    assert len(batch) == 50 and set(batch.rewards.tolist()) == {2, 3, 4}
    assert (batch.next_states == batch.states + 1).all()


def test_a_restored_replay_gives_the_same_samples_and_goes_on_alike() -> None:
    one, two = Replay(3, 1, 1), Replay(3, 1, 1)
    one.add(**rows(1, 2, 3))
    one.add(**rows(4))
    two.restore(one.state())
    for replay in (one, two):
        replay.add(**rows(5))
    first, second = (r.sample(20, np.random.default_rng(0)).rewards.tolist() for r in (one, two))
    assert first == second


def test_what_cannot_be_held_or_drawn_is_refused() -> None:
    with pytest.raises(ConfigError):
        Replay(0, 1, 1)
    with pytest.raises(DataError):
        Replay(2, 1, 1).add(**rows(1, 2, 3))
    with pytest.raises(DataError):
        Replay(2, 1, 1).sample(1, np.random.default_rng(0))
