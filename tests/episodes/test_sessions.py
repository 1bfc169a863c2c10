"""Episodes as the agent's loop sees them: one thread, deadlines, errors with a name."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from posttrain.episodes.environments import Step, TextEnvironment, ToolEnvironment
from posttrain.episodes.sessions import TextSession, ToolSession, open_session
from posttrain.episodes.tool_calls import Completion
from posttrain.episodes.tools import Tool
from posttrain.errors import ConfigError, EpisodeError
from posttrain.types import Example, ToolCall

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


class Door:
    """Remembers the thread in which it was made, as a database connection does."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.log: list[str] = []

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

    assert run(main()) == ["k red", "open", "close"]


def test_tools_of_a_server_are_known_after_its_reset() -> None:
    class Server(ToolEnvironment):
        def reset(self, **row: Any) -> None:
            self.word = row["word"]

        def tools(self) -> list[Tool]:
            return [Tool.of_schema("say", "Say it.", {"properties": {}}, lambda: self.word)]

    async def main() -> None:
        example = Example("", columns={"word": "hello"})
        session = await open_session(Server, example, [], timeout_seconds=5)
        assert session.tools == {}
        await session.start(example, 0)
        assert list(session.tools) == ["say"]
        call = ToolCall("say", {})
        reply = await session.reply(Completion("", calls=[call]), ["call00000"])
        assert call.result == "hello" and reply.ended is None
        assert await session.reward() is None
        await session.close()

    run(main())


def test_a_turn_without_calls_ends_a_tool_loop() -> None:
    async def main() -> None:
        session = await open_session(None, Example(""), [], timeout_seconds=5)
        assert await session.start(Example(""), 0) is None
        assert (await session.reply(Completion("42"), [])).ended == "completed"
        assert await session.reward() is None
        await session.close()

    run(main())


def test_text_environments() -> None:
    class Words(TextEnvironment):
        def reset(self, **row: Any) -> str:
            return "Say a word."

        def step(self, action: str) -> Step:
            return Step([{"role": "user", "content": "again"}], reward=len(action))

        def get_reward(self) -> float | None:
            return None

    async def main() -> None:
        session = await open_session(Words, Example(""), [], timeout_seconds=5)
        assert isinstance(session, TextSession) and session.tools == {}
        assert await session.reward() is None
        assert await session.start(Example(""), 0) == "Say a word."
        reply = await session.reply(Completion("tree"), [])
        assert reply.reward == 4.0 and reply.ended is None and reply.messages[0]["role"] == "user"
        assert await session.reward() == 4.0
        await session.close()

    run(main())


def test_failures_name_the_method() -> None:
    class Slow(TextEnvironment):
        def reset(self, **row: Any) -> str:
            time.sleep(30)
            return ""

        def step(self, action: str) -> Step:
            raise KeyError(action)

    def unmade() -> Any:
        raise OSError("no display")

    async def main() -> None:
        session = await open_session(Slow, Example(""), [], timeout_seconds=0.05)
        with pytest.raises(EpisodeError, match=r"Slow\.reset took longer than 0\.05 s"):
            await session.start(Example(""), 0)
        with pytest.raises(EpisodeError, match=r"Slow\.step: KeyError"):
            await session.reply(Completion("up"), [])
        await session.close()
        with pytest.raises(EpisodeError, match="unmade cannot be made: OSError: no display"):
            await open_session(unmade, Example(""), [], timeout_seconds=5)
        with pytest.raises(EpisodeError, match=r"more than 0\.05 s"):
            await open_session(lambda: time.sleep(30), Example(""), [], timeout_seconds=0.05)
        with pytest.raises(ConfigError, match="leave the tools out"):
            await open_session(Slow, Example(""), [print], timeout_seconds=5)
        with pytest.raises(ConfigError, match="'game'"):
            columns = {"environment": "gane"}
            await open_session({"game": Slow}, Example("", columns=columns), [], timeout_seconds=5)

    run(main())
