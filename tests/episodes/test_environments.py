"""Shapes of environments: their tools, their rows, their rewards."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from posttrain.episodes.environments import (
    Step,
    TextEnvironment,
    ToolSession,
    as_conversation,
    as_reward,
    open_session,
    row_of,
    taken,
    tool_methods,
)
from posttrain.episodes.tool_calls import Completion
from posttrain.errors import ConfigError, EpisodeError
from posttrain.types import Example, Message, ToolCall


class Door:
    """Remembers the thread in which it was made, as a database connection does."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.log: list[str] = []

    @property
    def broken(self) -> int:
        raise AssertionError("properties are not read")

    def reset(self, key: str, colour: str = "red") -> None:
        assert threading.get_ident() == self.thread
        self.log.append(f"{key} {colour}")

    def open(self) -> str:
        """Open the door."""
        assert threading.get_ident() == self.thread
        self.log.append("open")
        return "It is open."

    def done(self) -> bool:
        return "open" in self.log

    async def get_reward(self) -> float:
        return 0.25

    def close(self) -> None:
        self.log.append("close")


def test_one_thread_for_all_calls() -> None:
    async def main() -> Any:
        session = await open_session(
            Door, Example("", columns={"key": "k", "other": 1}), [], timeout_seconds=5
        )
        assert isinstance(session, ToolSession)
        assert await session.start(Example("", columns={"key": "k", "other": 1}), 0) is None
        call = ToolCall("open", {})
        reply = await session.reply(Completion("", calls=[call]), ["call00000"])
        assert call.result == "It is open." and reply.ended == "tool_stopped"
        assert await session.reward() == 0.25
        await session.close()
        return session.environment.log

    assert asyncio.run(main()) == ["k red", "open", "close"]


def test_public_methods_are_tools() -> None:
    assert [m.__name__ for m in tool_methods(Door())] == ["open"]

    class WithoutReset:
        pass

    with pytest.raises(ConfigError, match="reset"):
        tool_methods(WithoutReset())


def test_a_row_for_reset() -> None:
    example = Example("p", answer="a", columns={"seed": 3, "x": 1})
    assert row_of(example, 9) == {"prompt": "p", "seed": 3, "x": 1, "answer": "a"}
    assert row_of(Example("p"), 9) == {"prompt": "p", "seed": 9}

    def some(x: int) -> None: ...
    def all_of_them(**row: Any) -> None: ...

    assert taken(some, row_of(example, 9)) == {"x": 1}
    assert taken(all_of_them, row_of(example, 9)) == row_of(example, 9)


def test_rewards_are_finite_numbers() -> None:
    import numpy as np

    assert as_reward(None) is None and as_reward(True) == 1.0 and as_reward(np.float32(0.5)) == 0.5
    for wrong in ("much", [], float("inf"), float("nan")):
        with pytest.raises(EpisodeError):
            as_reward(wrong)


def test_what_a_text_environment_may_leave_out() -> None:
    environment = TextEnvironment()
    with pytest.raises(NotImplementedError):
        environment.reset()
    with pytest.raises(NotImplementedError):
        environment.step("")
    assert environment.get_reward() is None
    environment.close()
    assert Step(None).reward is None and not Step("a").done


def test_what_an_environment_says_first() -> None:
    assert as_conversation("a", None) == [{"role": "user", "content": "a"}]
    assert as_conversation("a", " b") == [{"role": "user", "content": "a b"}]
    system: Message = {"role": "system", "content": "s"}
    assert as_conversation([system], "b") == [system, {"role": "user", "content": "b"}]
    assert as_conversation("a", [system]) == [{"role": "user", "content": "a"}, system]
    parts = [{"type": "text", "text": "a"}]
    (message,) = as_conversation([{"role": "user", "content": parts}], "b")
    assert message["content"] == [*parts, {"type": "text", "text": "b"}]
    assert parts == [{"type": "text", "text": "a"}]
