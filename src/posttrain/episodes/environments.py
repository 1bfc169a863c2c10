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

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from posttrain.episodes.tools import Tool
from posttrain.errors import ConfigError, EpisodeError
from posttrain.types import Example, Message, Text

RESERVED = frozenset({"reset", "get_reward", "done", "close"})
"""Methods of an environment that are no tools."""


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


class TextEnvironment(ABC):
    """A world that reads what the model writes, and answers.

    Attributes:
        owns_prompt: what `reset` returns is the whole prompt, and the row's prompt is not shown.
    """

    owns_prompt = False

    @abstractmethod
    def reset(self, **row: Any) -> Text | None:
        """Begin; gives what the model is told first. row: the columns of the example, its prompt
        and answer, and `seed`, the episode's.
        """

    @abstractmethod
    def step(self, action: str) -> Step:
        """The answer to what the model wrote, without its thought."""

    def get_reward(self) -> float | None:
        """The reward of the episode; None = the sum of its steps."""
        return None

    def close(self) -> None:  # noqa: B027 (may be left out)
        """Release what the episode holds."""


class ToolEnvironment(ABC):
    """An environment that has its tools from elsewhere, such as a server. One whose tools are its
    own methods needs no base class. Any of its methods may be a coroutine function.

    Attributes:
        done: True ends the episode.
        metrics: numbers of the episode, read at its end.
    """

    done: bool = False
    metrics: Mapping[str, float] = {}

    @abstractmethod
    def reset(self, **row: Any) -> Any:
        """Begin; see `TextEnvironment.reset`."""

    @abstractmethod
    def tools(self) -> Sequence[Tool]:
        """The tools; asked after `reset`."""

    def wrote(self, message: Message) -> Any:  # noqa: B027 (may be left out)
        """Read a turn of the model, before its calls are done."""

    def get_reward(self) -> Any:
        """The reward of the episode, None where there is none."""
        return None

    def close(self) -> None:  # noqa: B027 (may be left out)
        """Release what the episode holds."""


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
