"""Paths in a recipe, made absolute, so that a run can be resumed from any folder.

A relative path is looked up from the working folder, then from the recipe's folder. What is in
neither place (a hub id, "embedded", the file of a stage that has not run) stays as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from posttrain.config import Component, DataConfig, EvaluationConfig, ModelConfig, Recipe
from posttrain.errors import ModelError
from posttrain.model_config import EMBEDDED_MODELS

STAGE = "stage:"

_MODEL_FIELDS = ("path", "tokenizer", "chat_template")


def with_absolute_paths(recipe: Recipe, notice: Callable[[str], None] = print) -> Recipe:
    """The recipe with absolute paths of its data, models, plugins and tasks.

    The folder of a run stands for the model in it.

    Args:
        notice: called with a line about each run's folder that was replaced by its model.
    Raises:
        ModelError: a model is the folder of a run that has not finished.
    """
    paths = _Paths(recipe.base, notice)
    values = {f.name: paths.of(getattr(recipe, f.name)) for f in dataclasses.fields(Recipe)}
    values["settings"] = {key: paths.of(value) for key, value in recipe.settings.items()}
    values["plugins"] = [paths.absolute(path) for path in recipe.plugins]
    values["stages"] = [paths.of_stage(stage) for stage in recipe.stages]
    return Recipe(**values)


def model_of(path: str, notice: Callable[[str], None] = print) -> str:
    """The model's folder where `path` is the folder of a run; any other path as it is.

    Raises:
        ModelError: the run has not finished.
    """
    folder = Path(path).expanduser()
    if not (folder / "recipe.yaml").is_file() or (folder / "config.json").exists():
        return path
    model = folder / "model"
    if model.is_dir():
        notice(f"{path} is the folder of a run; using its model {model}")
        return str(model)
    checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda p: p.stat().st_mtime)
    way = f"or use {checkpoints[-1]}" if checkpoints else "or choose another model"
    raise ModelError(
        f"{path} is the folder of a run without a model; finish it with `posttrain resume {path}`, "
        f"{way}"
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _Paths:
    base: Path
    notice: Callable[[str], None]

    def absolute(self, path: str) -> str:
        """The absolute path of what exists, else the text as it is."""
        if not path or path in EMBEDDED_MODELS or path.startswith(STAGE):
            return path
        try:
            for place in (Path(path).expanduser(), self.base / path):
                if place.exists():
                    return str(place.resolve())
        except (OSError, ValueError):  # a text that no file can be called
            return path
        return path

    def model(self, path: str) -> str:
        return model_of(self.absolute(path), self.notice)

    def of(self, value: Any) -> Any:
        """A value of a recipe with the paths inside it made absolute."""
        if isinstance(value, ModelConfig):
            return dataclasses.replace(
                value,
                path=self.model(value.path),
                tokenizer=self.absolute(value.tokenizer) if value.tokenizer else None,
                chat_template=self.absolute(value.chat_template) if value.chat_template else None,
            )
        if isinstance(value, DataConfig):
            return dataclasses.replace(value, path=self.absolute(value.path))
        if isinstance(value, Component):
            return dataclasses.replace(value, settings=self._of_settings(value.settings))
        if isinstance(value, EvaluationConfig):
            return dataclasses.replace(value, task=self.of(value.task))
        if isinstance(value, list) and any(isinstance(item, Component) for item in value):
            return [self.of(item) for item in value]
        return value

    def _of_settings(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        path = settings.get("path")
        return {**settings, **({"path": self.absolute(path)} if isinstance(path, str) else {})}

    def of_stage(self, stage: Mapping[str, Any]) -> dict[str, Any]:
        """A stage with the paths of its sections made absolute. It is still plain mappings."""
        changed = {key: self._of_plain(value) for key, value in stage.items()}
        for key in ("model", "data", "eval_data", "teacher"):
            if isinstance(stage.get(key), str):
                changed[key] = self.absolute(stage[key])
        return changed

    def _of_plain(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._of_plain(item) for item in value]
        if not isinstance(value, Mapping):
            return value
        changed = {key: self._of_plain(item) for key, item in value.items()}
        for key in _MODEL_FIELDS:
            if isinstance(value.get(key), str):
                changed[key] = self.absolute(value[key])
        return changed
