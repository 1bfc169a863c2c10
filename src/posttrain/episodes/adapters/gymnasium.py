"""Gymnasium, GEM and TextArena: reset, step, and text in between.

Gymnasium and GEM: `reset(seed=) -> (observation, info)`, `step(action) -> (observation, reward,
terminated, truncated, info)`. TextArena: `reset(num_players, seed)`, `get_observation() -> (player,
observation)`, `step(action) -> (done, info)`, `close() -> (rewards by player, info)`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from posttrain.episodes.environments import Step, TextEnvironment

_SEEDING = threading.Lock()
"""TextArena seeds Python's global generator: games are set up one at a time. One that draws
again later depends on what else draws.
"""


class Gymnasium(TextEnvironment):
    """An environment of Gymnasium's protocol whose observations and actions are text.

        environment = lambda: Gymnasium(lambda: gymnasium.make("Blackjack-v1"), to_action=int)

    Args:
        make: makes the environment.
        to_action: the model's text -> action. An action that it refuses with a ValueError (as int
            does) is answered by its message, without a step.
        to_text: observation -> text.
        invalid_reward: of a refused action.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        *,
        to_action: Callable[[str], Any] = str,
        to_text: Callable[[Any], str] = str,
        invalid_reward: float = 0.0,
    ) -> None:
        self.environment = make()
        self.to_action = to_action
        self.to_text = to_text
        self.invalid_reward = invalid_reward

    def reset(self, **row: Any) -> str:
        """Begin with the row's seed."""
        observation, _ = self.environment.reset(seed=_seed(row))
        return self.to_text(observation)

    def step(self, action: str) -> Step:
        """One step, ended by `terminated` or `truncated`."""
        try:
            chosen = self.to_action(action)
        except ValueError as error:
            return Step(f"invalid action: {error}", reward=self.invalid_reward)
        observation, reward, terminated, truncated, _ = self.environment.step(chosen)
        return Step(self.to_text(observation), float(reward), bool(terminated or truncated))

    def close(self) -> None:
        """Close the environment, where it can be."""
        if hasattr(self.environment, "close"):
            self.environment.close()


class TextArena(TextEnvironment):
    """A TextArena game, of which the model plays one player.

        environment = lambda: TextArena(lambda: textarena.make("Wordle-v0"))

    Args:
        make: makes the game.
        num_players: of the game. player: the model's.
        opponent: writes the actions of all other players from what they see.
        to_action: the model's text -> action, such as one that finds the last [guess].
    """

    def __init__(
        self,
        make: Callable[[], Any],
        *,
        num_players: int = 1,
        player: int = 0,
        opponent: Callable[[str], str] | None = None,
        to_action: Callable[[str], str] = str,
    ) -> None:
        self.environment = make()
        self.num_players = num_players
        self.player = player
        self.opponent = opponent
        self.to_action = to_action
        self._rewards: Any = None

    def reset(self, **row: Any) -> str:
        """Begin with the row's seed; the other players move first where it is their turn."""
        with _SEEDING:
            self.environment.reset(num_players=self.num_players, seed=_seed(row))
            first = self._until_own_turn(done=False).observation
        return str(first or "")

    def step(self, action: str) -> Step:
        """One action of the model's player, and those of the others behind it."""
        done, _ = self.environment.step(action=self.to_action(action))
        return self._until_own_turn(done)

    def get_reward(self) -> float | None:
        """What the game gives the model's player at its end."""
        if self._rewards is None:
            self._end()
        if not isinstance(self._rewards, dict):
            return None
        reward = self._rewards.get(self.player)
        return None if reward is None else float(reward)

    def _until_own_turn(self, done: bool) -> Step:
        while not done:
            player, observation = self.environment.get_observation()
            if player == self.player:
                return Step(self._text(observation))
            if self.opponent is None:
                raise ValueError(f"it is player {player}'s turn, and there is no opponent")
            done, _ = self.environment.step(action=self.opponent(self._text(observation)))
        self._end()
        return Step(None, done=True)

    def _end(self) -> None:
        ended = self.environment.close()  # which gives the rewards, once
        self._rewards = ended[0] if isinstance(ended, tuple) else ended
        self._rewards = self._rewards if self._rewards is not None else {}

    def _text(self, observation: Any) -> str:
        """Text as it is; a list of (player, message, kind) as one message a line."""
        if isinstance(observation, str):
            return observation
        return "\n".join(str(part[1]) for part in observation)


def _seed(row: dict[str, Any]) -> int:
    """A seed as these libraries take it: numpy's are below 2**32."""
    return int(row["seed"]) % 2**32
