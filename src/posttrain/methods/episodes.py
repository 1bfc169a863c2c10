"""From what a user gives as an environment to the episodes of a method."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from posttrain import registry
from posttrain.component import name_of
from posttrain.config import AgentConfig, Component, Limits
from posttrain.episodes.agent import Agent
from posttrain.episodes.chat import Chat
from posttrain.episodes.limits import EpisodeLimits
from posttrain.episodes.sessions import open_session
from posttrain.episodes.single import Episode
from posttrain.errors import ConfigError
from posttrain.models.spec import ModelSpec
from posttrain.sources.collect import Prompt
from posttrain.sources.episodes import EpisodeSampler
from posttrain.types import Sampling, Task

EnvironmentLike = (
    Component | str | Mapping[str, Any] | Callable[..., Any] | Sequence[Callable[..., Any]]
)
"""What the model acts in: a class or a function that makes an environment, the name of a registered
one, several by name (the column `environment` of a row chooses), a list of functions that are its
tools, or an episode of one's own: async (example, ask, tools) -> Trace.
"""


@dataclass(frozen=True, slots=True)
class Episodes:
    """How the traces of a method come about, where they are no single completions.

    Attributes:
        name: for messages. factory: makes the environment, or several by name. tools: functions
        beside it. function: an episode of the user's own. config: of the agent's loop.
    """

    name: str
    factory: Any
    tools: Sequence[Callable[..., Any]]
    function: Episode | None
    config: AgentConfig

    @classmethod
    def of(cls, environment: EnvironmentLike | None, config: AgentConfig) -> Episodes | None:
        """The episodes of an environment; None where there is none.

        Raises:
            ConfigError: it is no environment, or a setting of the loop has nothing to act on.
        """
        if environment is None:
            if config != AgentConfig():
                raise ConfigError(
                    "agent: there is no environment that the model acts in; give environment, or "
                    "leave agent out"
                )
            return None
        limits_of(config)
        if _is_episode(environment):
            function: Any = environment
            return cls(name_of(function), None, (), function, config)
        if isinstance(environment, Sequence) and not isinstance(environment, str):
            tools = list(environment)
            if not tools or not all(callable(tool) for tool in tools):
                raise ConfigError(f"environment: {tools!r:.80} is no list of functions")
            return cls(", ".join(name_of(t) for t in tools), None, tools, None, config)
        return cls(*_factory(environment), (), None, config)

    def check(self, spec: ModelSpec, task: Task) -> None:
        """Open the environment of the first example, and write its tools by the chat template.

        Raises:
            ConfigError, EpisodeError: the environment cannot be made, or a method is no tool.
            TemplateError: the chat template writes no tools.
        """
        if self.function is None:
            with ThreadPoolExecutor(1) as pool:  # a notebook's thread has an event loop already
                pool.submit(asyncio.run, self._check(spec, task)).result()

    async def _check(self, spec: ModelSpec, task: Task) -> None:
        session = await open_session(
            self.factory, task.examples[0], self.tools, timeout_seconds=self.config.tool_seconds
        )
        try:
            schemas = [dict(tool.schema) for tool in session.tools.values()]
            if schemas and self.config.chat is not False:
                Chat(spec.tokenizer, tools=schemas, parser=self.config.parser)
        finally:
            await session.close()

    def sampler(self, tokenizer: Any, task: Task, limits: Limits) -> EpisodeSampler:
        """What runs them."""
        episode = self.function or Agent(
            tokenizer,
            self.factory,
            limits=limits_of(self.config),
            system=task.system,
            parser=self.config.parser,
            chat=self.config.chat,
            train_unparsed=self.config.train_unparsed,
        )
        return EpisodeSampler(
            episode,
            self.tools,
            max_concurrent=self.config.max_concurrent,
            gather_seconds=self.config.gather_seconds,
            max_failed=limits.max_failed_rewards,
        )

    def prompts(self, task: Task) -> list[Prompt]:
        """The examples; what the model is told first is known when an episode begins."""
        return [Prompt(example, ()) for example in task.examples]

    def max_length(self, sampling: Sampling) -> int:
        """Most sampled tokens of an episode."""
        turns = sampling.max_tokens * max(self.config.max_turns, 1)
        return min(self.config.max_tokens or turns, turns)

    def text(self) -> str:
        """As a check shows them."""
        if self.function is not None:
            return f"{self.name}, an episode of its own"
        turns = self.config.max_turns
        return f"{self.name}, at most {turns} turns" if turns else self.name


def _is_episode(environment: Any) -> bool:
    """Whether it is a coroutine function, or an object that is called as one."""
    called = None
    if not isinstance(environment, type):
        called = getattr(environment, "__call__", None)  # noqa: B004
    return inspect.iscoroutinefunction(environment) or inspect.iscoroutinefunction(called)


def limits_of(config: AgentConfig) -> EpisodeLimits:
    """Where an episode ends that does not end by itself.

    Raises:
        ConfigError: a limit below 0.
    """
    for name in ("max_concurrent", "gather_seconds"):
        value = getattr(config, name)
        if not 0 <= value < math.inf:
            raise ConfigError(f"agent.{name}: {value} must be at least 0 and finite")
    return EpisodeLimits(
        max_turns=config.max_turns,
        max_tokens=config.max_tokens,
        max_tool_calls=config.max_tool_calls,
        max_parse_errors=config.max_parse_errors,
        tool_seconds=config.tool_seconds,
        timeout_seconds=config.timeout_seconds,
    )


def _factory(environment: Any) -> tuple[str, Any]:
    """The name of an environment, and what makes it."""
    if isinstance(environment, Mapping) and "name" not in environment:
        factories = {str(name): _factory(one)[1] for name, one in environment.items()}
        if not factories:
            raise ConfigError("environment: the mapping is empty; give name -> environment")
        return ", ".join(factories), factories
    item = Component.of(environment)
    if item.function is not None:
        return item.name, item.function
    return item.name, registry.environments.bind_of(item, "environment")


def refuse_task_reward(rewards: Sequence[Component], task: Task) -> None:
    """Refuse the reward "task" of an environment's rows that the task cannot grade.

    Raises:
        ConfigError: names the environment's own reward.
    """
    if task.unscored and any(r.name == "task" and r.function is None for r in rewards):
        raise ConfigError(
            f"rewards: 'task' cannot grade the rows of {task.name!r} ({task.unscored}); "
            "rewards: [environment] is what the environment gives"
        )
