"""The recipe of a run that was started in Python."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from posttrain.config import Component
from posttrain.models.loaded import LoadedModel
from posttrain.models.named import NamedModel
from posttrain.training.plan import Loop, Plan
from posttrain.training.resume import IN_PYTHON
from posttrain.training.settings import TrainingSettings
from posttrain.types import Task


def record_of(
    spec: NamedModel | LoadedModel,
    plan: Plan | Loop,
    settings: TrainingSettings,
    *,
    steps: int | None,
    seed: int,
    **continuation: int | None,
) -> dict[str, Any]:
    """Model, method and settings as plain values; objects that YAML cannot hold as a description.

    It documents the run and shows what changed since; `posttrain resume` cannot read it.

    Args:
        continuation: `after_step` and `schedule_steps`, as `fit` takes them.
    """
    record = {
        "method": plan.method,
        "model": _described(spec),
        IN_PYTHON: True,
        "seed": seed,
        "max_steps": steps,
        **continuation,
        **{name: _described(value) for name, value in plan.settings.items()},
        **dataclasses.asdict(settings),
    }
    return {name: value for name, value in record.items() if value not in (None, [], ())}


def _described(value: Any) -> Any:
    """A value as YAML holds it."""
    if isinstance(value, NamedModel):
        return _described(value.config)
    if isinstance(value, LoadedModel):
        if value.origin is None:
            return f"{value.name} (in memory)"
        return {**_described(value.origin), "in_memory": True}
    if isinstance(value, Component):
        if value.function is not None:
            return {"name": value.name, "weight": value.weight, "in_memory": True}
        return {"name": value.name, "weight": value.weight, **value.settings}
    if isinstance(value, Task):
        return f"task {value.name} of {len(value.examples)} examples"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {f.name: _described(getattr(value, f.name)) for f in fields}
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(k): _described(v) for k, v in value.items()}
    if isinstance(value, Sequence):
        if len(value) > 20 or any(isinstance(v, Mapping) and "name" not in v for v in value):
            return f"{len(value)} rows in memory"
        return [_described(v) for v in value]
    return getattr(value, "__name__", type(value).__name__)
