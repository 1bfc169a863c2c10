"""Environments: plain classes with tools, and worlds that answer text.

The native shape needs no base class, and is that of TRL's `environment_factory`:

    class Game:
        def reset(self, **row) -> str | None: ...     # what the model is told first
        def guess(self, word: str) -> str: ...        # public methods are tools
        def get_reward(self) -> float: ...            # optional: the reward of the episode
        done = False                                  # optional: True ends the episode

A world that reads whatever the model writes is a `TextEnvironment`; the adapters in
`episodes.adapters` make one of Gymnasium, SkyRL, OpenEnv and verifiers environments. All methods of
an episode run in one thread of its own (coroutine functions on the event loop), with deadlines.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from posttrain.component import name_of
from posttrain.episodes.chat import tool_message
from posttrain.episodes.tool_calls import Completion
from posttrain.episodes.tools import Tool, call_tool, tools_by_name
from posttrain.episodes.worker import Worker
from posttrain.errors import ConfigError, EpisodeError, nearest
from posttrain.rewards.values import described
from posttrain.types import Example, Message, StopReason, Text

RESERVED = frozenset({"reset", "get_reward", "done", "close"})
"""Methods of an environment that are no tools."""


CLOSE_SECONDS = 5.0
"""Most time that an environment has to release what it holds."""


@dataclass(frozen=True, slots=True)
class Step:
    """What a text environment answers.

    Attributes:
        observation: what the model is told, as text of a user or as messages; None ends the
            episode as `done` does.
        reward: of this step; None where it gives none.
        metrics: numbers to report; the last value of each name counts.
    """

    observation: Text | None
    reward: float | None = None
    done: bool = False
    metrics: Mapping[str, float] = field(default_factory=dict)


class TextEnvironment:
    """A world that reads what the model writes, and answers.

    Attributes:
        owns_prompt: what `reset` returns is the whole prompt, and the row's prompt is not shown.
    """

    owns_prompt = False

    def reset(self, **row: Any) -> Text | None:
        """Begin; gives what the model is told first. row: the columns of the example, its prompt
        and answer, and `seed`, the episode's.
        """
        raise NotImplementedError

    def step(self, action: str) -> Step:
        """The answer to what the model wrote, without its thought."""
        raise NotImplementedError

    def get_reward(self) -> float | None:
        """The reward of the episode; None = the sum of its steps."""
        return None

    def close(self) -> None:
        """Release what the episode holds."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a turn of the model leads to.

    Attributes:
        messages: what the model is told. ended: why the episode ends here; None: it goes on.
    """

    messages: list[Message]
    ended: StopReason | None = None
    reward: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


class Session(Protocol):
    """One episode as the agent's loop sees it.

    tools: by name, of which the model is told.
    """

    tools: Mapping[str, Tool]

    async def start(self, example: Example, seed: int) -> Text | None:
        """Begin; gives what the model is told behind the prompt.

        Raises:
            EpisodeError: it failed, or took too long; so do all others.
        """
        ...

    async def reply(self, completion: Completion, call_ids: Sequence[str]) -> Reply:
        """What a turn leads to. Its calls get their results."""
        ...

    async def reward(self) -> float | None:
        """The reward of the episode, None where it gives none."""
        ...

    async def close(self) -> None:
        """Release what it holds."""
        ...


class ToolSession:
    """Tools, and the environment that they may belong to.

    Args:
        functions: tools beside the environment's methods. environment: None = the tools alone.
        worker: where the environment was made.
        timeout_seconds: most time of one call; 0 = no limit.

    Raises:
        ConfigError: a method is no tool, or the environment has no `reset`.
    """

    def __init__(
        self,
        functions: Sequence[Callable[..., Any] | Tool] = (),
        environment: Any = None,
        *,
        worker: Worker,
        timeout_seconds: float = 60.0,
    ) -> None:
        self.environment = environment
        methods = [] if environment is None else tool_methods(environment)
        self.tools: Mapping[str, Tool] = tools_by_name([*functions, *methods])
        self._seconds = timeout_seconds
        self._worker = worker

    async def start(self, example: Example, seed: int) -> Text | None:
        """See `Session`."""
        if self.environment is None:
            return None
        row = taken(self.environment.reset, row_of(example, seed))
        reset = functools.partial(self.environment.reset, **row)
        text: Text | None = await self._do(reset, "reset")
        return text

    async def reply(self, completion: Completion, call_ids: Sequence[str]) -> Reply:
        """See `Session`: a turn without calls ends the episode."""
        if not completion.calls:
            return Reply([], "completed")
        messages = []
        for call, number in zip(completion.calls, call_ids, strict=True):
            text = await call_tool(self.tools, call, self._worker, timeout_seconds=self._seconds)
            messages.append(tool_message(call.name, text, number))
        done = getattr(self.environment, "done", False)
        if callable(done):
            done = await self._do(done, "done")
        return Reply(messages, "tool_stopped" if done else None)

    async def reward(self) -> float | None:
        """See `Session`."""
        if not hasattr(self.environment, "get_reward"):
            return None
        return as_reward(await self._do(self.environment.get_reward, "get_reward"))

    async def close(self) -> None:
        """See `Session`."""
        if hasattr(self.environment, "close"):
            await self._worker.call(self.environment.close, seconds=CLOSE_SECONDS)
        self._worker.close()

    async def _do(self, function: Callable[[], Any], method: str) -> Any:
        name = f"{type(self.environment).__name__}.{method}"
        return await bounded(self._worker, function, name, self._seconds)


class TextSession:
    """A text environment as a session; its tools are none. See `ToolSession`."""

    tools: Mapping[str, Tool] = {}

    def __init__(
        self, environment: TextEnvironment, *, worker: Worker, timeout_seconds: float = 60.0
    ) -> None:
        self.environment = environment
        self._seconds = timeout_seconds
        self._rewards: list[float] = []
        self._worker = worker

    async def start(self, example: Example, seed: int) -> Text | None:
        """See `Session`."""
        reset = functools.partial(self.environment.reset, **row_of(example, seed))
        text: Text | None = await self._do(reset, "reset")
        return text

    async def reply(self, completion: Completion, call_ids: Sequence[str]) -> Reply:
        """See `Session`."""
        step: Step = await self._do(
            functools.partial(self.environment.step, completion.content), "step"
        )
        reward = None if step.reward is None else as_reward(step.reward)
        if reward is not None:
            self._rewards.append(reward)
        said: Text = step.observation or []
        messages = [{"role": "user", "content": said}] if isinstance(said, str) else said
        ended: StopReason | None = "completed" if step.done or not messages else None
        return Reply(messages, ended, reward, step.metrics)

    async def reward(self) -> float | None:
        """See `Session`."""
        reward = as_reward(await self._do(self.environment.get_reward, "get_reward"))
        if reward is None and self._rewards:
            return sum(self._rewards)
        return reward

    async def close(self) -> None:
        """See `Session`."""
        await self._worker.call(self.environment.close, seconds=CLOSE_SECONDS)
        self._worker.close()

    async def _do(self, function: Callable[[], Any], method: str) -> Any:
        name = f"{type(self.environment).__name__}.{method}"
        return await bounded(self._worker, function, name, self._seconds)


Factory = Callable[[], Any]
"""Makes an environment: a class, or a function without arguments."""


async def open_session(
    factory: Factory | Mapping[str, Factory] | None,
    example: Example,
    functions: Sequence[Any],
    *,
    timeout_seconds: float,
) -> Session:
    """The session of an example. The environment is made in the thread in which it is used.

    Args:
        factory: several by name: the example's column `environment` chooses. None = tools alone.
        functions: tools beside the environment's.
        timeout_seconds: most time of one call of the environment; 0 = no limit.

    Raises:
        ConfigError: the example names no environment, or a method is no tool.
        EpisodeError: the environment cannot be made.
    """
    if isinstance(factory, Mapping):
        factory = _chosen(factory, example)
    worker = Worker()
    if factory is None:
        return ToolSession(functions, worker=worker, timeout_seconds=timeout_seconds)
    called = await worker.call(factory, seconds=timeout_seconds)
    if called.timed_out or called.error is not None:
        worker.close()
        reason = described(called.error) if called.error else f"more than {timeout_seconds:g} s"
        raise EpisodeError(f"the environment {name_of(factory)} cannot be made: {reason}")
    environment = called.value
    if not isinstance(environment, TextEnvironment):
        return ToolSession(functions, environment, worker=worker, timeout_seconds=timeout_seconds)
    if functions:
        worker.close()
        raise ConfigError(
            f"the environment {type(environment).__name__} reads text and calls no tools; leave "
            "the tools out"
        )
    return TextSession(environment, worker=worker, timeout_seconds=timeout_seconds)


def _chosen(factories: Mapping[str, Factory], example: Example) -> Factory:
    name = str(example.columns.get("environment"))
    if name not in factories:
        row = example.id or f"{example.prompt!r:.60}"
        raise ConfigError(
            f"row {row}: the column environment is {name!r}: {nearest(name, factories)}"
        )
    return factories[name]


def tool_methods(environment: Any) -> list[Callable[..., Any]]:
    """The methods of an environment that are tools: all that are public, but `RESERVED`.

    Raises:
        ConfigError: there is no method `reset`.
    """
    # Of the class: reading an attribute of the instance would evaluate properties.
    names = [name for name, _ in inspect.getmembers(type(environment), inspect.isfunction)]
    if "reset" not in names:
        raise ConfigError(
            f"the environment {type(environment).__name__} has no method reset(**row); add one, "
            "which returns what the model is told first, or None"
        )
    return [
        getattr(environment, name)
        for name in names
        if name not in RESERVED and not name.startswith("_")
    ]


def row_of(example: Example, seed: int) -> dict[str, Any]:
    """What `reset` is given: the columns, prompt and answer, and the seed of the episode where
    there is no column of that name.
    """
    row: dict[str, Any] = {"seed": seed, "prompt": example.prompt, **example.columns}
    if example.answer is not None:
        row.setdefault("answer", example.answer)
    return row


def taken(function: Callable[..., Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that a function takes: all for **row, else those that it names."""
    parameters = inspect.signature(function).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return dict(row)
    return {name: row[name] for name in parameters if name in row}


def as_reward(value: Any) -> float | None:
    """A reward as a number.

    Raises:
        EpisodeError: it is no finite number.
    """
    if value is None:
        return None
    try:
        number = float(value)
    except Exception as error:  # whatever __float__ raises
        raise EpisodeError(f"the reward is {value!r:.80}, which is no number") from error
    if number != number or number in (float("inf"), float("-inf")):
        raise EpisodeError(f"the reward is {number}; it must be finite")
    return number


async def bounded(worker: Worker, function: Callable[[], Any], name: str, seconds: float) -> Any:
    """The value of an environment's method.

    Raises:
        EpisodeError: it raised, or took longer than `seconds`.
    """
    called = await worker.call(function, seconds=seconds)
    if called.timed_out:
        raise EpisodeError(f"{name} took longer than {seconds:g} s")
    if called.error is not None:
        raise EpisodeError(f"{name}: {described(called.error)}") from called.error
    return called.value


def as_conversation(prompt: Text, observation: Text | None) -> list[Message]:
    """A prompt as messages, with what an environment says first: text goes behind the last user
    message, messages go behind all.
    """
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    if observation is None:
        return messages
    if isinstance(observation, list):
        return messages + observation
    if not messages or messages[-1].get("role") != "user":
        return [*messages, {"role": "user", "content": observation}]
    content = messages[-1].get("content")
    if isinstance(content, list):
        return [
            *messages[:-1],
            {**messages[-1], "content": [*content, {"type": "text", "text": observation}]},
        ]
    return [*messages[:-1], {**messages[-1], "content": (content or "") + observation}]
