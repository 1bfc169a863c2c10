"""Environments of TRL's shape that reward functions score."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from posttrain.episodes.adapters.trl import scored_by
from posttrain.episodes.sessions import open_session
from posttrain.episodes.tool_calls import Completion
from posttrain.errors import ConfigError
from posttrain.types import Example, ToolCall


class Game:
    def reset(self, **row: Any) -> str:
        self.score = 0.0
        self.done = False
        return "Go."

    def move(self, direction: str) -> str:
        """
        Move.

        Args:
            direction: where to.

        Returns:
            What there is.
        """
        if self.done:
            raise ValueError("over")
        self.score += len(direction)
        self.done = self.score > 5
        return f"score={self.score}"


class Owned(Game):
    def get_reward(self) -> float:
        return 10.0


def scores(environments: list[Any], **others: Any) -> list[float]:
    return [environment.score for environment in environments]


async def halves(environments: list[Any]) -> list[float]:
    return [environment.score / 2 for environment in environments]


def unknown(environments: list[Any]) -> list[float | None]:
    return [None for _ in environments]


def reward_of(factory: Any) -> Any:
    async def main() -> Any:
        session = await open_session(factory, Example(""), [], timeout_seconds=5)
        assert await session.start(Example(""), 0) == "Go."
        assert list(session.tools) == ["move"]
        for direction, ended in (("up", None), ("left", "tool_stopped")):
            call = ToolCall("move", {"direction": direction})
            reply = await session.reply(Completion("", calls=[call]), ["call00000"])
            assert call.error is None and reply.ended == ended
        reward = await session.reward()
        await session.close()
        return reward

    return asyncio.run(main())


@pytest.mark.parametrize(
    ("factory", "reward"),
    [
        (scored_by(Game, scores), 6.0),
        (scored_by(Game, [scores, halves], [1.0, 4.0]), 18.0),
        (scored_by(Game, [unknown, halves]), 3.0),
        (scored_by(Game, unknown), None),
        (scored_by(Owned, [scores]), 16.0),
        (scored_by(Owned, []), 10.0),
    ],
)
def test_rewards(factory: Any, reward: float | None) -> None:
    assert reward_of(factory) == reward


def test_one_weight_per_function() -> None:
    with pytest.raises(ConfigError, match="weights"):
        scored_by(Game, [scores, halves], [1.0])
