"""Tasksets of verifiers, by one of the same shape: tools, stops, rewards, metrics."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest

from posttrain.episodes.adapters.verifiers_tasks import (
    Transcript,
    VerifiersTask,
    schema_of,
    task_examples,
)
from posttrain.episodes.sessions import open_session
from posttrain.episodes.tool_calls import Completion
from posttrain.types import Example, ToolCall

F = TypeVar("F", bound=Callable[..., Any])


def mark(name: str, **more: Any) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        for key, value in {name: True, **more}.items():
            setattr(function, key, value)
        return function

    return decorate


class Facts:
    TOOL_PREFIX: str | None = "facts"
    server_name = "facts"

    def __init__(self) -> None:
        self.log: list[str] = []
        self.state = SimpleNamespace(seen=0)

    async def setup(self) -> None:
        self.log.append("setup")

    async def setup_task(self, task: Any) -> None:
        self.log.append(task.answer)

    @property
    def broken(self) -> int:
        raise AssertionError("properties are not read")

    @mark("tool", tool_name=None)
    def lookup(self, name: str, exact: bool = False) -> str:
        """Look up a name."""
        self.state.seen += 1
        return f"{name} is a tree"

    @mark("tool", tool_name="count")
    async def counting(self) -> int:
        """Count."""
        return 3


class Message:
    def __init__(self, **fields: Any) -> None:
        self.fields = fields

    def model_dump(self, *, exclude_none: bool) -> dict[str, Any]:
        return {k: v for k, v in self.fields.items() if v is not None or not exclude_none}


class Task:
    config = "settings"

    def __init__(self, number: int, prompt: Any = "What is an oak?") -> None:
        self.data = SimpleNamespace(
            name=f"task-{number}" if number else None,
            prompt=prompt,
            system_prompt="Be brief.",
            answer="tree",
        )
        self.log: list[str] = []

    @classmethod
    def toolsets(cls, config: Any) -> list[Any]:
        assert config == "settings"
        return [Facts()]

    async def setup(self, trace: Any, runtime: Any) -> None:
        self.log.append(f"setup {len(trace.messages)}")

    async def finalize(self, trace: Any, runtime: Any) -> None:
        self.log.append(f"finalize {trace.num_turns}")

    def hooks(self, kind: str) -> list[Any]:
        assert kind == "stop"
        return [self.enough, self.reads_a_request]

    async def enough(self, trace: Any) -> bool:
        return len(trace.tool_messages) >= 2

    async def reads_a_request(self, request: Any) -> bool:
        raise AssertionError("no request is known")

    async def score(self, trace: Any) -> None:
        trace.rewards["unscored"] = None
        trace.record_reward("named", float(self.data.answer in trace.last_reply), 2.0)
        trace.record_reward("looked_up", float(trace.state.seen > 0))
        trace.record_metrics({"turns": trace.num_turns})


class Tasks:
    config = "settings"

    @classmethod
    def toolsets(cls, config: Any) -> list[Any]:
        return []

    def __iter__(self) -> Iterator[Task]:
        return map(Task, itertools.count())


def test_examples() -> None:
    first, second = task_examples(Tasks(), 2)
    assert (first.prompt, first.answer, first.id) == ("What is an oak?", "tree", "task 0")
    assert second.id == "task-1" and isinstance(second.columns["task"], Task)
    messages = [Message(role="user", content="a", name=None)]
    (other,) = task_examples([Task(0, messages)])
    assert other.prompt == [{"role": "user", "content": "a"}]


def test_an_episode() -> None:
    async def main() -> None:
        (example,) = task_examples(Tasks(), 1)
        session = await open_session(lambda: VerifiersTask(Tasks()), example, [], timeout_seconds=5)
        first = await session.start(example, 3)
        assert isinstance(first, list)
        assert [m["role"] for m in first] == ["system", "user"]
        assert list(session.tools) == ["facts_count", "facts_lookup"]
        assert session.tools["facts_lookup"].schema["function"]["description"] == "Look up a name."

        look = ToolCall("facts_lookup", {"name": "An oak"})
        reply = await session.reply(Completion("", calls=[look]), ["call00000"])
        assert look.result == "An oak is a tree" and reply.ended is None
        count = ToolCall("facts_count", {})
        reply = await session.reply(Completion("", calls=[count]), ["call00001"])
        assert count.result == "3" and reply.ended == "tool_stopped"
        assert (
            await session.reply(Completion("A tree.", written="A tree."), [])
        ).ended == "completed"

        assert await session.reward() == 3.0
        assert session.metrics()["turns"] == 3.0
        task = example.columns["task"]
        assert task.log[0] == "setup 0" and task.log[-1] == "finalize 3"
        await session.close()

    asyncio.run(main())


@pytest.mark.parametrize(("said", "reward"), [("A tree.", 2.0), ("A fish.", 0.0)])
def test_rewards(said: str, reward: float) -> None:
    async def main() -> None:
        environment = VerifiersTask(Tasks())
        await environment.reset(task=Task(0))
        await environment.wrote({"role": "assistant", "content": said})
        assert await environment.get_reward() == reward
        assert environment.metrics == {"named": reward / 2, "looked_up": 0.0, "turns": 1.0}
        assert not environment.done

    asyncio.run(main())


def test_prompts_of_messages_and_none() -> None:
    async def main() -> None:
        environment = VerifiersTask(Tasks())
        first = await environment.reset(task=Task(0, [Message(role="user", content="a")]))
        assert first == [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "a"},
        ]

    asyncio.run(main())


def test_transcripts() -> None:
    transcript = Transcript(Task(0), [])
    assert transcript.last_reply == "" and transcript.num_turns == 0
    call = {"id": "c", "function": {"name": "f", "arguments": {"a": 1}}}
    transcript.add([{"role": "assistant", "content": "", "tool_calls": [call]}], sampled=True)
    transcript.add([{"role": "tool", "content": "x"}])
    (sent,) = transcript.assistant_messages[0].tool_calls
    assert (sent.name, sent.arguments) == ("f", '{"a": 1}')
    assert transcript.last_message.content == "x" and len(transcript.tool_messages) == 1
    assert transcript.assistant_messages[0].reasoning_content is None


def test_schemas_from_hints() -> None:
    def function(a: int, b: list[str], c: dict[str, int], d: Any, e: float = 1.0) -> None: ...

    schema = schema_of(function)
    assert schema["required"] == ["a", "b", "c", "d"]
    kinds = {name: value.get("type") for name, value in schema["properties"].items()}
    assert kinds == {"a": "integer", "b": "array", "c": "object", "d": None, "e": "number"}


def test_a_row_without_a_task_is_an_error() -> None:
    async def main() -> None:
        with pytest.raises(KeyError):
            await VerifiersTask(Tasks()).reset(**Example("a").columns)

    asyncio.run(main())
