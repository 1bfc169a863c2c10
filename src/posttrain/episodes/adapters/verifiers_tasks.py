"""Tasksets of the library verifiers (0.2 and later) in the agent's own loop: its tasks are
examples, the tools of its toolsets are tools, its `@reward` methods score the transcript.

What runs a task there in a process of its own (a harness, a container) is not used. A task that
needs one is run by their own program against a recording endpoint (`episodes.recording`).
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, get_origin, get_type_hints

from posttrain.episodes.environments import ToolEnvironment
from posttrain.episodes.tools import Tool, result_text
from posttrain.types import Example, Message, Text

_JSON_TYPES = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    list: "array",
    dict: "object",
}


def task_examples(taskset: Any, num_tasks: int | None = None) -> list[Example]:
    """The first tasks of a taskset as examples; the column `task` is the task itself.

    Args:
        num_tasks: None = all; some tasksets never end.
    """
    examples = []
    for place, task in enumerate(itertools.islice(iter(taskset), num_tasks)):
        data = task.data
        name = getattr(data, "name", None) or f"task {place}"
        prompt = data.prompt if isinstance(data.prompt, str) else _messages(data.prompt or [])
        columns = {"task": task}
        answer = getattr(data, "answer", None)
        examples.append(Example(prompt, answer=answer, columns=columns, id=str(name)))
    return examples


class VerifiersTask(ToolEnvironment):
    """The environment of a taskset's tasks.

        agent = Agent(tokenizer, lambda: VerifiersTask(taskset))

    Args:
        taskset: whose shared toolsets each episode gets one of.
    """

    owns_prompt = True

    def __init__(self, taskset: Any) -> None:
        self.taskset = taskset
        self.task: Any = None
        self.transcript: Transcript
        self._toolsets: list[Any] = []

    async def reset(self, **row: Any) -> Text | None:
        """Begin the row's task; gives its messages."""
        self.task = task = row["task"]
        shared = type(self.taskset).toolsets(self.taskset.config)
        self._toolsets = [*shared, *type(task).toolsets(task.config)]
        for toolset in self._toolsets:
            await toolset.setup()
            await toolset.setup_task(task.data)
        self.transcript = Transcript(task, self._toolsets)
        await task.setup(self.transcript, None)
        prompt = task.data.prompt
        said = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        messages = _messages(said or [])
        if task.data.system_prompt:
            messages.insert(0, {"role": "system", "content": task.data.system_prompt})
        self.transcript.add(messages)
        return messages

    def tools(self) -> Sequence[Tool]:
        """The tools of all toolsets, by the names that the model sees there."""
        return [self._tool(t, f) for t in self._toolsets for f in _marked(t, "tool")]

    async def wrote(self, message: Message) -> None:
        """Add a turn of the model to the transcript."""
        self.transcript.add([message], sampled=True)
        await self._stop()

    async def get_reward(self) -> float | None:
        """The weighted sum of the task's rewards; the transcript has each."""
        await self.task.finalize(self.transcript, None)
        await self.task.score(self.transcript)
        self.metrics = {
            **{name: value.score for name, value in self.transcript.rewards.items() if value},
            **{k: v for k, v in self.transcript.metrics.items() if v is not None},
        }
        rewards = [reward for reward in self.transcript.rewards.values() if reward is not None]
        return sum(reward.score * reward.weight for reward in rewards) if rewards else None

    def _tool(self, toolset: Any, function: Callable[..., Any]) -> Tool:
        prefix = None if toolset.TOOL_PREFIX is None else toolset.server_name
        own = getattr(function, "tool_name", None) or function.__name__
        name = own if prefix is None else f"{prefix}_{own}"

        async def call(**arguments: Any) -> str:
            if inspect.iscoroutinefunction(function):
                result = await function(**arguments)
            else:
                result = await asyncio.to_thread(function, **arguments)
            text = result_text(result)
            self.transcript.add([{"role": "tool", "name": name, "content": text}])
            await self._stop()
            return text

        description = inspect.cleandoc(function.__doc__ or "")
        return Tool.of_schema(name, description, schema_of(function), call)

    async def _stop(self) -> None:
        """Ask the task's stop conditions that read a transcript."""
        for stop in self.task.hooks("stop"):
            inputs = {"trace": self.transcript, "task": self.task.data}
            if set(inspect.signature(stop).parameters) <= set(inputs):
                names = inspect.signature(stop).parameters
                if await stop(**{name: inputs[name] for name in names}):
                    self.done = True


class Transcript:
    """What reward methods read of an episode, in the manner of their trace.

    Attributes:
        rewards: by name, each with score and weight. metrics: by name.
        state: of the first toolset, which the episode shares with it.
    """

    def __init__(self, task: Any, toolsets: Sequence[Any]) -> None:
        self.task = SimpleNamespace(data=task.data, type=type(task).__name__)
        self.state = toolsets[0].state if toolsets else SimpleNamespace()
        self.messages: list[Any] = []
        self.assistant_messages: list[Any] = []
        self.rewards: dict[str, Any] = {}
        self.metrics: dict[str, float | None] = {}
        self.info: dict[str, Any] = {}

    def add(self, messages: Sequence[Message], *, sampled: bool = False) -> None:
        """Add messages; sampled: by the model."""
        for message in messages:
            held = _as_object(message)
            self.messages.append(held)
            if sampled:
                self.assistant_messages.append(held)

    @property
    def num_turns(self) -> int:
        """Turns of the model."""
        return len(self.assistant_messages)

    @property
    def tool_messages(self) -> list[Any]:
        """Results of tools."""
        return [message for message in self.messages if message.role == "tool"]

    @property
    def last_message(self) -> Any:
        """The newest message."""
        return self.messages[-1]

    @property
    def last_reply(self) -> str:
        """Text of the model's last turn."""
        last = self.assistant_messages[-1:]
        return (last[0].content or "").strip() if last else ""

    def record_reward(self, name: str, value: float, weight: float = 1.0) -> None:
        """Set a reward."""
        self.rewards[name] = SimpleNamespace(score=float(value), weight=float(weight))

    def record_metric(self, name: str, value: float) -> None:
        """Set a metric."""
        self.metrics[name] = float(value)

    def record_metrics(self, values: Mapping[str, float]) -> None:
        """Set several metrics."""
        for name, value in values.items():
            self.record_metric(name, value)


def schema_of(function: Callable[..., Any]) -> dict[str, Any]:
    """JSON schema of a function's parameters, from its type hints alone; a hint that JSON has no
    name for allows every value.
    """
    hints = get_type_hints(function)
    properties, required = {}, []
    for name, parameter in inspect.signature(function).parameters.items():
        kind = _JSON_TYPES.get(get_origin(hints.get(name)) or hints.get(name, Any))
        properties[name] = {"type": kind} if kind else {}
        if parameter.default is parameter.empty:
            required.append(name)
    return {"type": "object", "properties": properties, "required": required}


def _marked(holder: Any, mark: str) -> list[Callable[..., Any]]:
    """The methods that a decorator has marked, by name; properties are not read."""
    names = {n for kind in type(holder).__mro__ for n, f in vars(kind).items() if hasattr(f, mark)}
    return [getattr(holder, name) for name in sorted(names)]


def _messages(messages: Sequence[Any]) -> list[Message]:
    """Messages as mappings, of theirs or as they are."""
    plain = [m.model_dump(exclude_none=True) if hasattr(m, "model_dump") else m for m in messages]
    return [dict(message) for message in plain]


def _as_object(message: Message) -> SimpleNamespace:
    """A message with fields instead of keys; arguments of calls are JSON as text, as theirs are."""
    calls = [
        SimpleNamespace(
            id=call.get("id", ""),
            name=call["function"]["name"],
            arguments=json.dumps(call["function"]["arguments"]),
        )
        for call in message.get("tool_calls") or []
    ]
    fields = {"name": None, "reasoning_content": None, **message, "tool_calls": calls or None}
    return SimpleNamespace(**fields)
