"""A model behind a server, in the place of one that is loaded: for evaluations and searches."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

from posttrain.config import EndpointConfig
from posttrain.engines.base import Engine
from posttrain.engines.characters import CharacterTokenizer
from posttrain.engines.text_engine import TextEngine
from posttrain.methods.objects import ModelLike
from posttrain.models.spec import ModelSpec, model_spec
from posttrain.types import Task


class EndpointModel:
    """A served model as evaluations and searches take it. It has no weights here and no critic.

    Args:
        config: the server.
    """

    has_critic = False
    critic = None

    def __init__(self, config: EndpointConfig) -> None:
        self.config = config
        self.tokenizer = CharacterTokenizer()

    @property
    def place(self) -> str:
        """The model's name and its server."""
        return f"{self.config.model} at {self.config.url}"

    @cached_property
    def engine(self) -> TextEngine:
        """The engine on the server."""
        return TextEngine(self.config)

    def context_length(self) -> int | None:
        """Unknown here: the server refuses what is too long."""
        return None

    def load(self) -> EndpointModel:
        """The model itself."""
        return self

    def load_critic(self) -> None:
        """There is none."""

    def chat_task(self, task: Task) -> Task:
        """A task whose prompts are messages, where the server has the chat route alone."""
        if self.config.route != "chat":
            return task
        examples = [
            replace(e, prompt=[{"role": "user", "content": e.prompt}])
            if isinstance(e.prompt, str)
            else e
            for e in task.examples
        ]
        return replace(task, examples=examples)


Spec = ModelSpec | EndpointModel
"""A model before its weights are loaded, or a served one."""


def spec_of(model: ModelLike | EndpointConfig | EndpointModel) -> Spec:
    """A model as evaluations take it.

    Raises:
        ConfigError: it is no model.
    """
    if isinstance(model, EndpointModel):
        return model
    return EndpointModel(model) if isinstance(model, EndpointConfig) else model_spec(model)


def engine_of(model: Any) -> Engine | None:
    """The engine that a served model brings; None for one that is loaded."""
    return model.engine if isinstance(model, EndpointModel) else None
