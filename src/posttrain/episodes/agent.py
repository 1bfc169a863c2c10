"""The loop of a model that calls tools, or plays in an environment: one coroutine an episode."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.data.templates import as_messages, decode_completion
from posttrain.episodes.ask import Ask
from posttrain.episodes.chat import Chat, Conversation, call_id
from posttrain.episodes.environments import as_conversation
from posttrain.episodes.limits import EpisodeLimits
from posttrain.episodes.plain_chat import PlainConversation
from posttrain.episodes.sessions import Factory, Session, open_session
from posttrain.episodes.tool_calls import Completion
from posttrain.errors import ConfigError, PosttrainError
from posttrain.rewards.values import described
from posttrain.types import Example, Message, StopReason, Text, Trace, Turn

REWARD = "environment"
"""Name of the environment's own reward among the rewards of a trace."""


class Agent:
    """Episodes of one tokenizer's model in an environment, or with tools alone.

    An `Agent` is called as an episode: `trace = await agent(example, ask, tools)`.

    Args:
        environment: a class or function that makes an environment (see `episodes.environments`), or
            several by name, among which the column `environment` of an example chooses; None = the
            tools that the episode is called with, and nothing else.
        system: system message.
        parser: form of tool calls, see `tool_calls.parser_for`.
        chat: conversations follow the chat template (True) or are plain text (False). None: text
            prompts stay plain text where there are no tools, as everywhere; all else is chat, if
            there is a template.
        train_unparsed: a turn whose calls cannot be read is trained on like any other. By default
            it is context alone.
    """

    def __init__(
        self,
        tokenizer: Any,
        environment: Factory | Mapping[str, Factory] | None = None,
        *,
        limits: EpisodeLimits | None = None,
        system: str | None = None,
        parser: str = "auto",
        chat: bool | None = None,
        train_unparsed: bool = False,
    ) -> None:
        self.tokenizer = tokenizer
        self.environment = environment
        self.limits = limits or EpisodeLimits()
        self.system = system
        self.parser = parser
        self.chat = chat
        self.train_unparsed = train_unparsed
        self._chats: dict[str, Chat] = {}

    async def __call__(self, example: Example, ask: Ask, tools: Sequence[Any] = ()) -> Trace:
        """One episode. What fails in its environment is the trace's error.

        Raises:
            ConfigError, TemplateError: tools, template or example do not fit one another.
        """
        trace = Trace([])
        session: Session | None = None
        try:
            session = await open_session(
                self.environment, example, tools, timeout_seconds=self.limits.tool_seconds
            )
            first = await session.start(example, ask.seed)
            conversation = self._conversation(example, session, first)
            await _Episode(self, conversation, session, ask, trace).run()
            reward = await session.reward()
            trace.rewards = {} if reward is None else {REWARD: reward}
            trace.reward = reward
            trace.metrics.update(session.metrics())
        except PosttrainError as error:
            if isinstance(error, ConfigError):
                raise
            trace.error = described(error)
        finally:
            if session is not None:
                await session.close()
        return trace

    def _conversation(
        self, example: Example, session: Session, first: Text | None
    ) -> Conversation | PlainConversation:
        owns_prompt = getattr(getattr(session, "environment", None), "owns_prompt", False)
        prompt: Text = [] if owns_prompt else example.prompt
        if self._is_chat(prompt, session):
            messages = as_messages([] if prompt == "" else _messages(prompt), self.system)
            return self._chat_of(session).start(as_conversation(messages, first))
        texts = [prompt, first or ""]
        if not all(isinstance(text, str) for text in texts):
            raise ConfigError(
                "the episode is plain text, and prompt or environment give messages; set chat to "
                "True, with a tokenizer that has a chat template"
            )
        text = as_messages("".join(str(t) for t in texts), self.system)
        parser = "none" if self.parser == "auto" and not session.tools else self.parser
        return PlainConversation(self.tokenizer, str(text), parser=parser)

    def _is_chat(self, prompt: Text, session: Session) -> bool:
        if self.chat is not None:
            return self.chat
        if not self.tokenizer.chat_template:
            return False
        return bool(session.tools) or not (isinstance(prompt, str) and prompt)

    def _chat_of(self, session: Session) -> Chat:
        """The chat with a session's tools; checking a template takes several renderings."""
        schemas = [dict(tool.schema) for tool in session.tools.values()]
        parser = "none" if self.parser == "auto" and not schemas else self.parser
        key = json.dumps(schemas, sort_keys=True, default=str)
        if key not in self._chats:
            self._chats[key] = Chat(self.tokenizer, tools=schemas, parser=parser)
        return self._chats[key]


class _Episode:
    """One run of the loop. It fills the trace as it goes, so that a failure leaves its turns."""

    def __init__(
        self,
        agent: Agent,
        conversation: Conversation | PlainConversation,
        session: Session,
        ask: Ask,
        trace: Trace,
    ) -> None:
        self.agent = agent
        self.limits = agent.limits
        self.conversation = conversation
        self.session = session
        self.ask = ask
        self.trace = trace
        self.new: list[Message] = list(conversation.messages)
        self.parse_errors = 0
        self.calls = 0
        self.branches = 0
        seconds = self.limits.timeout_seconds
        self.deadline = asyncio.get_running_loop().time() + seconds if seconds else None

    async def run(self) -> None:
        """Turns, until something ends the episode."""
        ended: StopReason | None = None
        scope = asyncio.timeout_at(self.deadline)
        try:
            async with scope:
                while ended is None:
                    ended = await self._turn()
        except TimeoutError:
            if not scope.expired():
                raise
            ended = "timeout"
        self.trace.stop_reason = ended or "completed"
        self.trace.metrics.update(self._metrics())

    async def _turn(self) -> StopReason | None:
        """One completion, and what follows from it. Why the episode ends with it, or None."""
        context = self.conversation.context_ids
        room = self.limits.room(self.ask, len(context), self.trace.num_sampled)
        if isinstance(room, str):
            return room
        sampling = dataclasses.replace(self.ask.sampling, max_tokens=room)
        (sample,) = await self.ask(context, sampling)
        completion = self.conversation.wrote(sample)
        turn = Turn(
            context,
            sample,
            decode_completion(self.agent.tokenizer, sample),
            self.new,
            completion.calls,
        )
        self.new = []
        self.trace.turns.append(turn)
        if completion.errors and not self.agent.train_unparsed:
            turn.is_trained = False
        if sample.finish_reason != "stop":
            return self.limits.cut(self.ask, len(context), sample)
        if completion.errors:
            return self._unreadable(completion)
        return await self._reply(turn, completion)

    def _unreadable(self, completion: Completion) -> StopReason | None:
        self.parse_errors += 1
        if self.parse_errors > self.limits.max_parse_errors:
            return "parse_error"
        text = f"Error: the tool call could not be read: {'; '.join(completion.errors)}"
        return self._say([{"role": "user", "content": text}])

    async def _reply(self, turn: Turn, completion: Completion) -> StopReason | None:
        self.calls += len(completion.calls)
        if self.limits.max_tool_calls and self.calls > self.limits.max_tool_calls:
            return "max_tool_calls"
        said = self.conversation.messages[-1].get("tool_calls")
        ids = [str(c["id"]) for c in said] if said else [call_id(i) for i in range(self.calls)]
        reply = await self.session.reply(completion, ids[: len(completion.calls)])
        turn.reward = reply.reward
        self.trace.metrics.update(reply.metrics)
        if reply.ended is not None:
            self.new = list(reply.messages)
            return reply.ended
        return self._say(reply.messages)

    def _say(self, messages: list[Message]) -> StopReason | None:
        if self.limits.max_turns and len(self.trace.turns) >= self.limits.max_turns:
            return "max_turns"
        self.conversation.say(messages)
        self.branches += self.conversation.branched
        self.new = messages
        return None

    def _metrics(self) -> dict[str, float]:
        calls = [call for turn in self.trace.turns for call in turn.tool_calls]
        return {
            "num_turns": float(len(self.trace.turns)),
            "num_branches": float(self.branches),
            "num_tool_calls": float(len(calls)),
            "num_tool_errors": float(sum(call.error is not None for call in calls)),
            "num_parse_errors": float(self.parse_errors),
            "tool_seconds": sum(call.seconds for call in calls),
        }


def _messages(prompt: Text) -> list[Message]:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
