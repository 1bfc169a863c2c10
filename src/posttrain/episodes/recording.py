"""Episodes of an agent that owns its loop: it asks for chat completions, and what it asks becomes
the trace.

The agent is any program that speaks OpenAI's protocol. It gets the address of an endpoint and a key
of its own. Each request carries the whole conversation. One that goes on from an answer continues
that answer's token ids; any other begins a branch of the trace.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from posttrain.data.templates import decode_completion
from posttrain.episodes.ask import Ask
from posttrain.episodes.chat import Chat, Conversation
from posttrain.episodes.environments import as_reward
from posttrain.episodes.limits import EpisodeLimits
from posttrain.episodes.worker import Called, Worker
from posttrain.errors import EpisodeError, PosttrainError
from posttrain.rewards.values import described
from posttrain.types import Example, Message, StopReason, Trace, Turn

REWARD = "agent"
"""Name of the agent's own reward among the rewards of a trace."""


@dataclass(frozen=True, slots=True)
class Access:
    """How an agent reaches the policy: base URL, API key and model name of OpenAI's protocol."""

    base_url: str
    key: str = field(repr=False)
    model: str = "policy"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an agent's program says of its episode.

    Attributes:
        reward: None where it gives none. rewards: parts of it, by name.
        error: why there is no reward; the episode has failed.
    """

    reward: float | None = None
    rewards: Mapping[str, float | None] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None


Program = Callable[[Example, Access], Any]
"""(example, access) -> Outcome, reward or None. A coroutine function runs on the event loop, any
other in a thread."""


class Endpoint(Protocol):
    """Serves recorders over HTTP."""

    def open(self, recorder: Recorder) -> AbstractContextManager[Access]:
        """Serve a recorder under a key of its own, until the context ends."""
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """A completion as an agent gets it.

    Attributes:
        message: the assistant's, in OpenAI's form. finish_reason: stop, length or tool_calls.
    """

    message: Message
    finish_reason: str
    num_prompt_tokens: int
    num_completion_tokens: int


class Recorder:
    """Answers the chat requests of one episode, and records them.

    How to sample is the run's: a request may only lower the number of tokens.

    Args:
        chat_of: the chat with the tools of these schemas.
        train_unparsed: a turn whose calls cannot be read is trained on like any other.
    Attributes:
        trace: the turns so far, in the order of the answers.
        ended: the limit that the last request ran into.
    """

    def __init__(
        self,
        chat_of: Callable[[Sequence[Any]], Chat],
        ask: Ask,
        tokenizer: Any,
        *,
        limits: EpisodeLimits | None = None,
        train_unparsed: bool = False,
    ) -> None:
        self.trace = Trace([])
        self.ended: StopReason | None = None
        self._chat_of = chat_of
        self._ask = ask
        self._tokenizer = tokenizer
        self._limits = limits or EpisodeLimits()
        self._train_unparsed = train_unparsed
        self._answered: dict[str, Conversation] = {}
        self._num_asked = 0

    async def answer(
        self, messages: Sequence[Message], tools: Sequence[Any] = (), max_tokens: int | None = None
    ) -> Answer:
        """The policy's next message.

        Args:
            messages: in OpenAI's form. tools: their schemas. max_tokens: most of this completion.

        Raises:
            EpisodeError: a limit of the episode is reached, or the messages are no conversation.
            TemplateError: the chat template refuses the messages.
        """
        said = [plain_message(message) for message in messages]
        conversation, new = self._conversation(said, list(tools))
        context = conversation.context_ids
        room = self._room(len(context))
        if max_tokens is not None:
            room = min(room, max_tokens)
        self._num_asked += 1
        (sample,) = await self._ask(
            context, dataclasses.replace(self._ask.sampling, max_tokens=room)
        )
        completion = conversation.wrote(sample)
        text = decode_completion(self._tokenizer, sample)
        turn = Turn(context, sample, text, new, completion.calls)
        turn.is_trained = self._train_unparsed or not completion.errors
        self.trace.turns.append(turn)
        self._answered[_key(conversation.messages, tools)] = conversation
        message = openai_message(conversation.messages[-1])
        reason = "tool_calls" if "tool_calls" in message else "stop"
        self.ended = None
        if sample.finish_reason != "stop":
            reason, self.ended = "length", self._limits.cut(self._ask, len(context), sample)
        return Answer(message, reason, len(context), len(sample.ids))

    def _conversation(
        self, said: list[Message], tools: list[Any]
    ) -> tuple[Conversation, list[Message]]:
        """The conversation whose next turn is asked for, and the messages that are new in it."""
        if not said or said[-1]["role"] == "assistant":
            raise EpisodeError(
                "messages must end with one of the user, of a tool or of the system, which the "
                "policy answers"
            )
        for end in range(len(said) - 1, 0, -1):
            if said[end - 1]["role"] != "assistant":
                continue
            answered = self._answered.get(_key(said[:end], tools))
            if answered is not None:
                conversation, new = answered.fork(), said[end:]
                conversation.say(new)
                return conversation, new
        return self._chat_of(tools).start(said), said

    def _room(self, num_context: int) -> int:
        """Tokens that the next completion may have."""
        limits = self._limits
        room = limits.room(self._ask, num_context, self.trace.num_sampled)
        num_calls = sum(len(turn.tool_calls) for turn in self.trace.turns)
        if limits.max_turns and self._num_asked >= limits.max_turns:
            room = "max_turns"
        elif limits.max_tool_calls and num_calls > limits.max_tool_calls:
            room = "max_tool_calls"
        if isinstance(room, str):
            self.ended = room
            raise EpisodeError(f"the episode has reached its limit {room}")
        return room


class RecordedAgent:
    """Episodes of an agent that owns its loop.

        with RecordingServer() as endpoint:
            episode = RecordedAgent(tokenizer, program, endpoint)
            trace = await episode(example, ask)

    Args:
        program: runs the agent on an example against `access`; see `Program`.
        endpoint: serves the policy, such as `posttrain.serve.recording.RecordingServer`.
        parser: form of tool calls, see `tool_calls.parser_for`.
        train_unparsed: see `Recorder`.
    """

    def __init__(
        self,
        tokenizer: Any,
        program: Program,
        endpoint: Endpoint,
        *,
        limits: EpisodeLimits | None = None,
        parser: str = "auto",
        train_unparsed: bool = False,
    ) -> None:
        self.tokenizer = tokenizer
        self.program = program
        self.endpoint = endpoint
        self.limits = limits or EpisodeLimits()
        self.parser = parser
        self.train_unparsed = train_unparsed
        self._chats: dict[str, Chat] = {}

    async def __call__(self, example: Example, ask: Ask, tools: Sequence[Any] = ()) -> Trace:
        """One episode. What fails in the agent is the trace's error."""
        if tools:
            raise EpisodeError("an agent that owns its loop brings its own tools; leave them out")
        recorder = Recorder(
            self._chat,
            ask,
            self.tokenizer,
            limits=self.limits,
            train_unparsed=self.train_unparsed,
        )
        worker = Worker("agent")
        try:
            with self.endpoint.open(recorder) as access:
                run = functools.partial(self.program, example, access)
                called = await worker.call(run, seconds=self.limits.timeout_seconds)
        finally:
            worker.close()
        trace = recorder.trace
        trace.stop_reason = recorder.ended or "completed"
        self._conclude(trace, called)
        return trace

    def _conclude(self, trace: Trace, called: Called) -> None:
        """Give the trace its reward, or its error."""
        outcome = called.value if isinstance(called.value, Outcome) else None
        if called.timed_out:
            trace.stop_reason = "timeout"
            trace.error = f"the agent took longer than {self.limits.timeout_seconds:g} s"
        elif called.error is not None:
            trace.error = described(called.error)
        elif outcome is not None and outcome.error is not None:
            trace.error = outcome.error
        else:
            value = called.value if outcome is None else outcome.reward
            try:
                trace.reward = as_reward(value)
            except PosttrainError as error:
                trace.error = described(error)
        trace.metrics = _metrics(trace)
        if outcome is not None:
            trace.metrics.update(outcome.metrics)
            trace.rewards.update(outcome.rewards)
        if trace.error is None and trace.reward is not None and not trace.rewards:
            trace.rewards = {REWARD: trace.reward}

    def _chat(self, tools: Sequence[Any]) -> Chat:
        """The chat with some tools; checking a template takes several renderings."""
        parser = "none" if self.parser == "auto" and not tools else self.parser
        key = json.dumps(list(tools), sort_keys=True, default=str)
        if key not in self._chats:
            self._chats[key] = Chat(self.tokenizer, tools=tools, parser=parser)
        return self._chats[key]


def _metrics(trace: Trace) -> dict[str, float]:
    return {
        "num_turns": float(len(trace.turns)),
        "num_tool_calls": float(sum(len(turn.tool_calls) for turn in trace.turns)),
        "num_parse_errors": float(sum(not turn.is_trained for turn in trace.turns)),
    }


# ---- messages


def plain_message(message: Message) -> Message:
    """A message of OpenAI's form as chat templates read it: content is text, arguments are objects.

    Raises:
        EpisodeError: it has no role, or content that is no text.
    """
    role = message.get("role")
    if role == "developer":
        role = "system"
    if role not in ("system", "user", "assistant", "tool"):
        raise EpisodeError(
            f"a message has the role {role!r:.40}; it is system, user, assistant or tool"
        )
    plain: Message = {"role": role, "content": _content(message.get("content"))}
    for name in ("name", "tool_call_id", "reasoning_content"):
        if isinstance(message.get(name), str):
            plain[name] = message[name]
    if calls := message.get("tool_calls"):
        plain["tool_calls"] = [
            {"type": "function", "id": str(call.get("id", "")), "function": _function(call)}
            for call in calls
        ]
    return plain


def _content(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    texts = [part.get("text") if isinstance(part, Mapping) else None for part in content]
    if not all(isinstance(text, str) for text in texts):
        raise EpisodeError("the content of a message has parts that are no text")
    return "".join(map(str, texts))


def _function(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call.get("function") or {}
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            raise EpisodeError(f"the arguments of a call are no JSON: {arguments:.80}") from None
    return {"name": str(function.get("name", "")), "arguments": arguments}


def openai_message(message: Message) -> Message:
    """An assistant's message in OpenAI's form: arguments are JSON as text."""
    answer = {**message, "content": message.get("content") or None}
    if calls := message.get("tool_calls"):
        answer["tool_calls"] = [
            {**call, "function": {**call["function"], "arguments": _json(call["function"])}}
            for call in calls
        ]
    else:
        answer["content"] = message.get("content") or ""
    return answer


def _json(function: Mapping[str, Any]) -> str:
    return json.dumps(function["arguments"], ensure_ascii=False)


def _key(messages: Sequence[Message], tools: Sequence[Any]) -> str:
    """What tells conversations apart. Thoughts and white space at the ends do not: agents leave
    them out.
    """
    parts = [
        [
            message["role"],
            str(message.get("content") or "").strip(),
            [call["function"] for call in message.get("tool_calls") or []],
        ]
        for message in messages
    ]
    return json.dumps([list(tools), parts], sort_keys=True, default=str)
