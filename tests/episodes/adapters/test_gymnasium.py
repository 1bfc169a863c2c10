"""Gymnasium's and TextArena's protocols, played by small games of the same shape."""

from __future__ import annotations

import random
from typing import Any

import pytest

from posttrain.episodes.adapters.gymnasium import Gymnasium, TextArena


class Higher:
    """Gymnasium's shape: numbers in and out."""

    closed = False

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[int, dict[str, Any]]:
        assert seed is not None and 0 <= seed < 2**32
        self.target, self.steps = random.Random(seed).randint(0, 9), 0
        return 5, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        assert isinstance(action, int)
        self.steps += 1
        right = action == self.target
        return self.target - action, float(right), right, self.steps == 3, {}

    def close(self) -> None:
        self.closed = True


def test_gymnasium() -> None:
    game = Gymnasium(Higher, to_action=int, to_text=lambda o: f"off by {o}", invalid_reward=-0.1)
    assert game.reset(seed=2**40 + 3) == "off by 5"
    target = game.environment.target
    step = game.step("left")
    assert (step.reward, step.done) == (-0.1, False) and "left" in str(step.observation)
    assert game.step(str(target + 1)).observation == "off by -1"
    last = game.step(str(target))
    assert (last.reward, last.done) == (1.0, True)
    game.reset(seed=2**40 + 3)
    assert game.environment.target == target
    assert [game.step(str(target + 1)).done for _ in range(3)] == [False, False, True]
    assert game.get_reward() is None
    game.close()
    assert game.environment.closed


class Count:
    """TextArena's shape: players take turns to say the next number; who errs loses."""

    def __init__(self, players: int) -> None:
        self.players = players

    def reset(self, num_players: int, seed: int | None = None) -> None:
        assert num_players == self.players
        random.seed(seed)
        self.number, self.turn = random.randint(1, 9), 0
        self.rewards: dict[int, float] | None = None

    def get_observation(self) -> tuple[int, list[tuple[int, str, str]]]:
        return self.turn % self.players, [(-1, "Count on.", "PROMPT"), (-1, str(self.number), "X")]

    def step(self, action: str) -> tuple[bool, dict[str, Any]]:
        player = self.turn % self.players
        self.turn += 1
        if action == str(self.number + 1):
            self.number += 1
            if self.turn < 6:
                return False, {}
            self.rewards = dict.fromkeys(range(self.players), 1.0)
        else:
            self.rewards = {p: -1.0 if p == player else 1.0 for p in range(self.players)}
        return True, {}

    def close(self) -> tuple[dict[int, float] | None, dict[str, Any]]:
        return self.rewards, {}


def counted(text: str) -> str:
    return str(int(text.splitlines()[-1]) + 1)


def test_textarena_alone() -> None:
    game = TextArena(lambda: Count(1), to_action=lambda text: text.strip("[]"))
    text = game.reset(seed=3)
    assert text == game.reset(seed=3) and text.startswith("Count on.\n")
    for _ in range(5):
        step = game.step(f"[{counted(text)}]")
        assert not step.done
        text = str(step.observation)
    step = game.step(counted(text))
    assert step.done and step.observation is None and game.get_reward() == 1.0


@pytest.mark.parametrize("player", [0, 1])
def test_textarena_with_an_opponent(player: int) -> None:
    game = TextArena(lambda: Count(2), num_players=2, player=player, opponent=counted)
    text = game.reset(seed=3)
    assert game.environment.turn == player
    text = str(game.step(counted(text)).observation)
    assert game.step("wrong").done and game.get_reward() == -1.0
    lonely = TextArena(lambda: Count(2), num_players=2)
    first = lonely.reset(seed=1)
    with pytest.raises(ValueError, match="player 1"):
        lonely.step(counted(first))


def test_a_game_that_is_left_has_no_reward() -> None:
    game = TextArena(lambda: Count(1))
    game.reset(seed=1)
    assert game.get_reward() is None
