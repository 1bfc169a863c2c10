"""Agents that own their loop: conversations that go on, branches, limits, outcomes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from posttrain.episodes.drive import drive
from posttrain.episodes.limits import EpisodeLimits
from posttrain.episodes.recording import (
    Access,
    Outcome,
    RecordedAgent,
    Recorder,
    openai_message,
    plain_message,
)
from posttrain.errors import EpisodeError
from posttrain.types import Example, Sampling, Trace

TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    },
}
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'


class Direct:
    """An endpoint in this process: `recorders` are those that have been opened."""

    def __init__(self) -> None:
        self.recorders: list[Recorder] = []
        self.num_open = 0

    @contextmanager
    def open(self, recorder: Recorder) -> Iterator[Access]:
        self.recorders.append(recorder)
        self.num_open += 1
        yield Access("http://nowhere/v1", str(len(self.recorders) - 1))
        self.num_open -= 1


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


Run = Callable[..., Trace]


@pytest.fixture
def run(templates: Any, engines: Any) -> Run:
    """Runs an agent `async (example, say) -> value`, where say(messages, ...) asks the policy."""

    def run(program: Any, script: Any, **settings: Any) -> Trace:
        tokenizer = templates.tokenizer("qwen3")
        lines = iter(script) if isinstance(script, list) else None
        engine = engines.scripted(
            tokenizer, (lambda _: next(lines)) if lines else script, templates.STYLES["qwen3"][1]
        )
        engine.context_length = settings.pop("context_length", None)
        endpoint = Direct()

        async def agent(example: Example, access: Access) -> Any:
            return await program(example, endpoint.recorders[int(access.key)].answer)

        episode = RecordedAgent(tokenizer, agent, endpoint, **settings)
        example = Example([user("What is 12 + 30?")])
        (trace,) = drive(
            [lambda ask: episode(example, ask)],
            engine,
            sampling=Sampling(max_tokens=100),
            seeds=[3],
        )
        assert endpoint.num_open == 0
        assert isinstance(trace, Trace), trace
        return trace

    return run


def test_a_conversation_that_goes_on(run: Run) -> None:
    async def program(example: Example, say: Any) -> float:
        messages = list(example.prompt)
        answer = await say(messages, [TOOL])
        assert answer.finish_reason == "tool_calls" and answer.message["content"] is None
        (call,) = answer.message["tool_calls"]
        assert json.loads(call["function"]["arguments"]) == {"a": 1}
        # As agents send it back: arguments as text with other spaces, the content left out.
        call = {**call, "function": {"name": "add", "arguments": '{"a":1}'}}
        result = {
            "role": "tool",
            "tool_call_id": call["id"],
            "content": [{"type": "text", "text": "42"}],
        }
        messages += [{"role": "assistant", "tool_calls": [call]}, result]
        answer = await say(messages, [TOOL])
        assert answer.finish_reason == "stop" and answer.message["content"] == "It is 42."
        return 0.5

    trace = run(program, [CALL, "It is 42."])
    first, second = trace.turns
    assert second.context_ids[: len(first.ids)] == first.ids
    assert [m["role"] for m in second.messages] == ["tool"] and first.tool_calls[0].name == "add"
    assert (trace.reward, trace.rewards, trace.error) == (0.5, {"agent": 0.5}, None)
    assert trace.metrics == {"num_turns": 2.0, "num_tool_calls": 1.0, "num_parse_errors": 0.0}
    assert trace.stop_reason == "completed"


def test_requests_that_do_not_go_on_are_branches(run: Run) -> None:
    async def program(example: Example, say: Any) -> Outcome:
        first = (await say(example.prompt)).message
        again = (await say(example.prompt)).message
        followed = [*example.prompt, first, user("Sure?")]
        assert first["content"] == again["content"] == "Yes."
        await say(followed)
        await say(followed)  # such as a client that tries again
        await say([user("Something else.")])
        return Outcome(1.0, {"a": 0.25, "b": None}, {"score": 3.0})

    trace = run(program, lambda _: "Yes.")
    one, two, three, four, other = trace.turns
    assert one.context_ids == two.context_ids
    assert three.context_ids[: len(two.ids)] == two.ids and four.context_ids == three.context_ids
    assert other.context_ids[: len(one.ids)] != one.ids
    assert trace.rewards == {"a": 0.25, "b": None} and trace.metrics["score"] == 3.0


def test_thoughts_that_agents_leave_out_stay_in_the_context(run: Run) -> None:
    async def program(example: Example, say: Any) -> None:
        answer = (await say(example.prompt, [TOOL])).message
        assert answer["reasoning_content"] == "Hm."
        answer.pop("reasoning_content")
        result = {"role": "tool", "tool_call_id": "x", "content": "42"}
        await say([*example.prompt, answer, result], [TOOL])

    trace = run(program, [f"<think>\nHm.\n</think>\n\n{CALL}", "42"])
    first, second = trace.turns
    assert second.context_ids[: len(first.ids)] == first.ids
    assert trace.reward is None and trace.rewards == {} and trace.error is None


@pytest.mark.parametrize(
    ("limits", "reason", "turns"),
    [
        ({"max_turns": 2}, "max_turns", 2),
        ({"max_tokens": 30}, "max_tokens", None),
        ({"max_tool_calls": 2}, "max_tool_calls", 3),
        ({"max_context": 400}, "context_overflow", None),
    ],
)
def test_limits(run: Run, limits: dict[str, Any], reason: str, turns: int | None) -> None:
    async def program(example: Example, say: Any) -> None:
        messages = list(example.prompt)
        while True:
            answer = (await say(messages, [TOOL])).message
            messages += [answer, {"role": "tool", "tool_call_id": "x", "content": "more"}]

    trace = run(program, lambda _: CALL, limits=EpisodeLimits(**limits))
    assert trace.stop_reason == reason and trace.error is not None and trace.reward is None
    assert turns is None or len(trace.turns) == turns


def test_a_limit_that_the_agent_handles(run: Run) -> None:
    async def program(example: Example, say: Any) -> float:
        await say(example.prompt)
        with pytest.raises(EpisodeError):
            await say(example.prompt)
        return 1.0

    trace = run(program, lambda _: "Yes.", limits=EpisodeLimits(max_turns=1))
    assert (trace.reward, trace.error, trace.stop_reason) == (1.0, None, "max_turns")


def test_cut_and_malformed_turns(run: Run) -> None:
    async def program(example: Example, say: Any) -> None:
        answer = await say(example.prompt, [TOOL], 3)
        assert (answer.finish_reason, answer.num_completion_tokens) == ("length", 3)
        answer = await say(example.prompt, [TOOL])
        assert answer.message["content"] == "<tool_call>{</tool_call>"

    trace = run(program, ["One, two, three, four.", "<tool_call>{</tool_call>"])
    assert [turn.is_trained for turn in trace.turns] == [True, False]
    assert trace.metrics["num_parse_errors"] == 1.0
    trained = run(
        program, ["One, two, three, four.", "<tool_call>{</tool_call>"], train_unparsed=True
    )
    assert [turn.is_trained for turn in trained.turns] == [True, True]


def test_agents_that_fail(run: Run) -> None:
    async def crashes(example: Example, say: Any) -> None:
        await say(example.prompt)
        raise KeyError("no file")

    async def says_so(example: Example, say: Any) -> Outcome:
        return Outcome(error="the sandbox is gone")

    async def gives_no_number(example: Example, say: Any) -> str:
        return "good"

    async def waits(example: Example, say: Any) -> None:
        await say(example.prompt)
        import asyncio

        await asyncio.sleep(60)

    trace = run(crashes, lambda _: "Yes.")
    assert trace.error == "KeyError: 'no file'" and len(trace.turns) == 1 and trace.reward is None
    assert run(says_so, lambda _: "Yes.").error == "the sandbox is gone"
    assert "good" in str(run(gives_no_number, lambda _: "Yes.").error)
    slow = run(waits, lambda _: "Yes.", limits=EpisodeLimits(timeout_seconds=0.3))
    assert slow.stop_reason == "timeout" and slow.error is not None and len(slow.turns) == 1


def test_what_cannot_be_answered(run: Run) -> None:
    refused: list[list[dict[str, Any]]] = [
        [],
        [user("a"), {"role": "assistant", "content": "b"}],
        [{"role": "critic", "content": "b"}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
        [{"role": "assistant", "tool_calls": [{"function": {"arguments": "{"}}]}, user("a")],
    ]

    async def program(example: Example, say: Any) -> None:
        for messages in refused:
            with pytest.raises(EpisodeError):
                await say(messages)

    assert run(program, lambda _: "Yes.").turns == []


def test_tools_are_the_agents_own(templates: Any) -> None:
    import asyncio

    episode = RecordedAgent(templates.tokenizer("qwen3"), lambda *_: None, Direct())
    with pytest.raises(EpisodeError):
        asyncio.run(episode(Example("a"), None, [print]))  # type: ignore[arg-type]


def test_messages_of_both_forms() -> None:
    function = {"name": "f", "arguments": {"a": "ä"}}
    held = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "id": "c1", "function": function}],
    }
    sent = openai_message(held)
    assert sent["content"] is None
    assert sent["tool_calls"][0]["function"]["arguments"] == '{"a": "ä"}'
    assert plain_message(sent) == held
    assert plain_message({"role": "developer", "content": None}) == {
        "role": "system",
        "content": "",
    }
    assert openai_message({"role": "assistant", "content": ""})["content"] == ""
