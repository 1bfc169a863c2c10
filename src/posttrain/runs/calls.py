"""From the values of a recipe to the arguments of the method that it names."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from posttrain import registry
from posttrain.config import (
    Component,
    DataConfig,
    EvaluationConfig,
    ForgettingConfig,
    Limits,
    ModelConfig,
    Recipe,
)
from posttrain.errors import ConfigError
from posttrain.keys import Watch, refuse_unread_fields
from posttrain.model_config import EMBEDDED_MODELS
from posttrain.models.named import NamedModel
from posttrain.training.settings import TrainingSettings


class Call:
    """The call that a recipe stands for: its method, arguments and model.

    Args:
        notice: is called with what a load of the model has to say.
        critic_ahead: as `NamedModel` takes it.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        notice: Callable[[str], None],
        critic_ahead: bool | None = None,
    ) -> None:
        self.recipe = recipe
        self.notice = notice
        self.critic_ahead = critic_ahead
        self._watch = Watch()

    def make(self) -> Any:
        """The plan or job that the method makes."""
        recipe = self.recipe
        entry = registry.methods.entry(recipe.method)
        fields = {f.name for f in dataclasses.fields(Recipe)}
        arguments: dict[str, Any] = {}
        for name in entry.settings:
            if name == "limits":
                arguments[name] = self.limits
                continue
            value = getattr(recipe, name) if name in fields else recipe.settings[name]
            arguments[name] = self._argument(name, value)
        return registry.methods.get(recipe.method)(**arguments)

    def refuse_unread(self) -> None:
        """Refuse fields of `data` that the method has passed over."""
        refuse_unread_fields(self.recipe.method, self._watch.unread())

    def _argument(self, name: str, value: Any) -> Any:
        if isinstance(value, DataConfig):
            sources = tuple(
                dataclasses.replace(source, path=self.resolve(source.path))
                for source in value.sources
            )
            path = self.resolve(value.path) if value.path else ""
            value = dataclasses.replace(value, path=path, sources=sources)
            return self._watch.section(name, value)
        if isinstance(value, ModelConfig):
            return self.named(value)
        if isinstance(value, EvaluationConfig):
            return self.evaluation_of(value)
        if isinstance(value, Component) and name in ("task", "mix_task", "eval_task"):
            return self._task(value)
        return value

    def _task(self, item: Component) -> Component:
        """A task, whose setting `path` may be relative to the recipe."""
        path = item.settings.get("path")
        if not isinstance(path, str):
            return item
        return dataclasses.replace(item, settings={**item.settings, "path": self.resolve(path)})

    def evaluation_of(self, config: EvaluationConfig) -> EvaluationConfig:
        """An evaluation with the paths of its task resolved."""
        return dataclasses.replace(config, task=self._task(config.task))

    def forgetting_of(self, config: ForgettingConfig) -> ForgettingConfig:
        """A forgetting ledger with the paths of its tasks and rows resolved."""
        new = config.new if config.new is not None else self.recipe.task
        return dataclasses.replace(
            config,
            old=[self._task(task) for task in config.old],
            rows={name: self.resolve(path) for name, path in config.rows.items()},
            new=None if new is None else self._task(new),
        )

    def resolve(self, path: str) -> str:
        """A path: as it is from the working folder, else from the recipe's folder, else a hub
        id.
        """
        for candidate in (Path(path).expanduser(), self.recipe.base / path):
            if candidate.exists():
                return str(candidate.resolve())
        return path

    def named(self, config: ModelConfig, *, critic_ahead: bool | None = None) -> NamedModel:
        """A model that the recipe names."""
        path = config.path if config.path in EMBEDDED_MODELS else self.resolve(config.path)
        tokenizer = self.resolve(config.tokenizer) if config.tokenizer else None
        resolved = dataclasses.replace(config, path=path, tokenizer=tokenizer)
        return NamedModel(
            resolved, seed=self.recipe.seed, notice=self.notice, critic_ahead=critic_ahead
        )

    @property
    def model(self) -> NamedModel | None:
        """The recipe's model, None where it names none."""
        if self.recipe.model is None:
            return None
        return self.named(self.recipe.model, critic_ahead=self.critic_ahead)

    @property
    def trained_model(self) -> NamedModel:
        """The recipe's model.

        Raises:
            ConfigError: the recipe names none.
        """
        model = self.model
        if model is None:
            raise ConfigError("missing key 'model': a folder, a hub id, or 'embedded'")
        return model

    @property
    def limits(self) -> Limits:
        """How much may fail or be dropped."""
        return Limits(**{f.name: getattr(self.recipe, f.name) for f in dataclasses.fields(Limits)})

    @property
    def training(self) -> TrainingSettings:
        """The settings of the training."""
        names = [f.name for f in dataclasses.fields(TrainingSettings)]
        values = {name: getattr(self.recipe, name) for name in names}
        for name in ("report_to", "penalties"):
            values[name] = tuple(values[name])
        return TrainingSettings(**values)

    @property
    def plugins(self) -> list[Path]:
        """The files of the user's functions."""
        return [(self.recipe.base / p).resolve() for p in self.recipe.plugins]
