"""Functions of the package called by hand: their settings are checked as those of a recipe are.

A wrong type or choice, and a keyword that the function does not have, are a `ConfigError` that
names the setting, instead of a run that trains something else or an error from within.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from posttrain import config
from posttrain.entry import METHOD, Entry
from posttrain.errors import ConfigError, nearest, shown
from posttrain.inputs import INDICES, LOSS_INPUTS
from posttrain.typecheck import check_in_python, is_plain

UNCHECKED = "__unchecked__"
"""The attribute of a checked function that holds the function itself."""

OF_FIT = (
    "steps",
    "after",
    "schedule_steps",
    "output",
    "resume",
    "accept",
    "hooks",
    "seed",
    "evaluation",
    "console",
    *config.OF_EVERY_TRAINING,
)
"""Settings of `pt.fit`."""

_OTHER_WORDS = {
    "rows": ("data", "task"),
    "dataset": ("data", "task"),
    "train_dataset": ("data", "task"),
    "eval_dataset": ("eval_data",),
    "reward_funcs": ("rewards",),
    "lr": ("learning_rate",),
    "epochs": ("num_train_epochs",),
    "max_completion_length": ("sampling",),
}
"""Words that users try, and the settings that they mean."""

_SECTIONS: dict[str, Any] = {
    "sampling": config.SamplingConfig,
    "data": config.DataConfig,
    "credit": config.CreditConfig,
    "overlap": config.OverlapConfig,
    "trust_region": config.TrustRegionConfig,
    "limits": config.Limits,
}


def checked(function: Callable[..., Any], entry_of: Callable[[], Entry]) -> Callable[..., Any]:
    """The function with its settings checked at each call.

    Args:
        entry_of: gives its entry, which is read at the first call.

    Raises:
        ConfigError: by the function that is returned; see the module.
    """
    cached: list[tuple[Entry, dict[str, Any]]] = []

    @functools.wraps(function)
    def call(*arguments: Any, **settings: Any) -> Any:
        if not cached:
            entry = entry_of()
            cached.append((entry, _plain_hints(entry)))
        entry, hints = cached[0]
        inputs = [_tensor(entry, name, value) for name, value in zip(entry.inputs, arguments)]
        if settings:
            settings = _checked_settings(entry, hints, settings)
        return function(*inputs, *arguments[len(inputs) :], **settings)

    setattr(call, UNCHECKED, function)
    return call


def unchecked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function within a checked one."""
    inner: Callable[..., Any] = getattr(function, UNCHECKED, function)
    return inner


def _tensor(entry: Entry, name: str, value: Any) -> Any:
    """A number or numbers as the tensor that a loss computes with; a number is one target,
    sequence or pair. Any other value, and of another function, as it is.
    """
    if entry.kind != "loss" or not isinstance(value, int | float | list | tuple):
        return value
    loss_input = LOSS_INPUTS.get(name)
    holds_tensors = isinstance(value, list | tuple) and any(hasattr(v, "shape") for v in value)
    if loss_input is None or not loss_input.shape or holds_tensors:
        return value
    import torch

    dtype = torch.int64 if name in INDICES else torch.float32
    try:
        return torch.atleast_1d(torch.as_tensor(value, dtype=dtype))
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"{entry.name}: {name}: {shown(value)} must be numbers of shape {loss_input.shape} "
            f"({loss_input.meaning})"
        ) from error


def _plain_hints(entry: Entry) -> dict[str, Any]:
    """The types of the settings that can be checked: numbers, texts, choices and sections."""
    return {name: s.hint for name, s in entry.settings.items() if is_plain(s.hint)}


def _checked_settings(
    entry: Entry, hints: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The keywords of a call, each of its declared type."""
    values = {}
    for name, value in settings.items():
        if name not in entry.settings and name not in entry.inputs and not entry.accepts_columns:
            raise ConfigError(unknown_setting(name, entry))
        tensor = hasattr(value, "shape")  # a loss computes with one as with a number
        checks = name in hints and not (tensor and entry.kind != METHOD)
        where = f"{entry.name}: {name}"
        value = check_in_python(value, hints[name], where) if checks else value
        values[name] = _tensor(entry, name, value)
    return values


def unknown_setting(name: str, entry: Entry) -> str:
    """What is said of a keyword that a function does not have."""
    names = [*entry.inputs, *entry.settings]
    what = f"{entry.kind} {entry.name!r} has no setting {name!r}"
    if entry.kind == METHOD:
        meant = [word for word in _OTHER_WORDS.get(name, ()) if word in names]
        if name in ("max_steps", *OF_FIT):
            word = "steps" if name == "max_steps" else name
            return f"{what}: it belongs to the training: pt.fit(model, plan, {word}=...)"
        if meant:
            return f"{what}; it is called {meant[0]!r} here"
        section = next((s for s in _SECTIONS if s in names and name in _fields(s)), None)
        if section is not None:
            cls = _SECTIONS[section].__name__.removesuffix("Config")
            make = f"pt.{cls}.of(rows, " if section == "data" else f"pt.{cls}("
            return f"{what}: it is a field of {section}: {section}={make}{name}=...)"
    return f"{what}: {nearest(name, names)}"


def _fields(section: str) -> Iterable[str]:
    return [f.name for f in dataclasses.fields(_SECTIONS[section])]
