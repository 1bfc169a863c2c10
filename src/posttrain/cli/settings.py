"""The settings of a method by purpose: name, type, default and meaning, read from docstrings."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass
from typing import Any

from posttrain import keys, registry
from posttrain.annotations import spelled
from posttrain.config import Recipe
from posttrain.descriptions import descriptions, mentions
from posttrain.main_loss import main_loss
from posttrain.registry import REQUIRED, Entry


@dataclass(frozen=True, slots=True)
class SettingLine:
    """One setting as help shows it.

    Attributes:
        key: as it is written in `key=value`.
        type: its type in words.
        default: the default value; REQUIRED if there is none.
        meaning: what it does, on one line; "" if no docstring says it.
    """

    key: str
    type: str
    default: Any
    meaning: str


GROUPS = (
    "model",
    "data",
    "sampling",
    "rewards",
    "loss",
    "method",
    "optimiser",
    "schedule",
    "saving",
    "evaluation",
    "run",
)

_GROUP_OF_KEY = {
    **dict.fromkeys(("task", "take_as", "step_separator", "max_prompts_dropped"), "data"),
    **dict.fromkeys(("mix_task", "mix_batch_size", "stages"), "data"),
    **dict.fromkeys(("num_generations", "endpoint", "environment", "agent"), "sampling"),
    **dict.fromkeys(("rewards", "scorer", "oracle", "amateur", *keys.OF_REWARDS), "rewards"),
    **dict.fromkeys(("losses", "advantage", "credit"), "loss"),
    **dict.fromkeys(("learning_rate", "critic_learning_rate", "weight_decay"), "optimiser"),
    **dict.fromkeys(("adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm"), "optimiser"),
    **dict.fromkeys(("trust_region", "optimizer", "muon_momentum", "muon_scale"), "optimiser"),
    **dict.fromkeys(("ema_decay",), "optimiser"),
    **dict.fromkeys(("max_steps", "num_train_epochs", "batch_size"), "schedule"),
    **dict.fromkeys(("lr_scheduler_type", "warmup_steps", "min_lr_ratio"), "schedule"),
    **dict.fromkeys(
        ("num_iterations", "num_minibatches", "max_tokens_per_micro_batch"), "schedule"
    ),
    **dict.fromkeys(("save_every", "save_seconds", "save_final", "save_total_limit"), "saving"),
    **dict.fromkeys(("evaluation", "eval_every", "search"), "evaluation"),
    **dict.fromkeys(("title", "output", "seed", "plugins", "report_to"), "run"),
    **dict.fromkeys(("shard", "compute_dtype"), "run"),
}
_GROUP_OF_CLASS = {
    "ModelConfig": "model",
    "DataConfig": "data",
    "SamplingConfig": "sampling",
    "EvaluationConfig": "evaluation",
}

_EXPANDED = ("model", "data", "sampling", "credit", "evaluation")
"""Sections whose fields are listed. Others are one line that names the class to look up."""

TYPES = {"int": "int", "float": "float", "str": "text", "bool": "true/false", "Any": "any"}


def settings_of(entry: Entry, losses: Any = None) -> dict[str, list[SettingLine]]:
    """All keys that a method reads, by group, in the order of GROUPS.

    Args:
        losses: a recipe's losses, whose first is the main loss; None is the method's default.
    """
    raw = {} if losses is None else {"losses": losses}
    shared = {f.name: f for f in dataclasses.fields(Recipe)}
    method_keys = keys.keys_read(entry) - {"method"}
    ordered = [k for k in entry.settings if k in method_keys]
    ordered += [k for k in shared if k in method_keys and k not in entry.settings]
    if "model" in ordered:
        ordered = ["model", *(k for k in ordered if k != "model")]
    meanings = _meanings(entry)
    groups: dict[str, list[SettingLine]] = {name: [] for name in GROUPS}
    for key in ordered:
        annotation = keys.annotation_of(key, entry)
        default = _default(key, entry, shared)
        group = _GROUP_OF_KEY.get(key) or _GROUP_OF_CLASS.get(keys.class_name(annotation), "method")
        section = keys.class_name(annotation)
        lines = [SettingLine(key, type_text(annotation), default, meanings.get(key, ""))]
        if key in _EXPANDED:
            lines = _section_lines(key, section, default)
        groups[group] += lines
    groups["loss"] += loss_settings(main_loss(raw, entry))
    return {name: lines for name, lines in groups.items() if lines}


def loss_settings(name: str) -> list[SettingLine]:
    """The settings of a loss, which a recipe may write as plain keys if it is the main loss."""
    entries = registry.losses.entries()
    return function_settings(entries[name]) if name in entries else []


def function_settings(entry: Entry) -> list[SettingLine]:
    """The settings of a registered function with their meanings."""
    meanings = descriptions(entry.doc, entry.settings.keys())
    return [
        SettingLine(key, type_text(spelled(s.hint)), s.default, meanings.get(key, ""))
        for key, s in entry.settings.items()
    ]


def section_settings(section: type) -> list[SettingLine]:
    """The fields of a section of recipes with their meanings."""
    fields = [f for f in dataclasses.fields(section) if f.metadata.get("recipe", True)]
    hints = typing.get_type_hints(section)
    meanings = descriptions(section.__doc__ or "", [f.name for f in fields])
    return [
        SettingLine(
            f.name, type_text(spelled(hints[f.name])), field_default(f), meanings.get(f.name, "")
        )
        for f in fields
    ]


def field_default(field: dataclasses.Field[Any]) -> Any:
    """The default of a dataclass's field; REQUIRED if it has none."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return REQUIRED if field.default is dataclasses.MISSING else field.default


def _section_lines(key: str, section: str, default: Any) -> list[SettingLine]:
    """A section's fields as dotted keys. A method's own defaults of a section replace its own."""
    own = default if isinstance(default, dict) else {}
    lines = []
    for line in section_settings(keys.CLASSES[section]):
        value = own.get(line.key, line.default)
        lines.append(dataclasses.replace(line, key=f"{key}.{line.key}", default=value))
    return lines


def _meanings(entry: Entry) -> dict[str, str]:
    """What the method's docstring says of its settings, else what is said of every method's."""
    shared = descriptions(Recipe.__doc__ or "", [f.name for f in dataclasses.fields(Recipe)])
    others = [key for key in entry.settings if key not in shared]
    prose = mentions(entry.doc, others)
    return {**prose, **_SHARED_MEANINGS, **shared, **descriptions(entry.doc, others)}


# Settings that several methods share and most of their docstrings use without an explanation.
_SHARED_MEANINGS = {
    "cache_reference": "compute the reference's log-probs once and keep them on disk",
    "reference_every": "steps between updates of the reference; 0 is off",
    "reference_mix": "share of the policy in an update of the reference",
    "advantage": "how rewards become advantages; `posttrain ls advantages` lists them",
    "credit": "changes of rewards and advantages before the loss",
    "critic_learning_rate": "peak learning rate of the critic; None is the policy's",
    "mask_truncated": "leave completions that were cut at max_tokens out of the loss",
    "num_iterations": "passes over the completions of a step",
    "num_minibatches": "optimiser steps per pass over the completions of a step",
    "num_generations": "completions per prompt",
    "mix_batch_size": "rows of mix_data or mix_task per optimiser step",
    "mix_task": "task whose worked examples are trained on beside the completions",
    "num_rounds": "number of rounds",
    "mix_data": "rows that are trained on beside the completions",
    "trust_region": "TRPO's update instead of AdamW's",
    "teacher": "model to learn from",
    "critic": "model that the critic starts from; None is a copy of the policy",
    "judge": "model that compares completions; None is the model itself",
    "policy": "model whose completions the reward model chooses from",
    "environment": "what the model acts in; `posttrain ls environments` lists them",
    "agent": "how the model acts in an environment",
    "endpoint": "server that writes the completions instead of the model",
    "step_separator": "text between the steps of a completion",
    "search": "strategy that chooses among completions; `posttrain ls searches` lists them",
    "scorer": "reward that scores candidates for the search, by name",
    "amateur": "weaker model of the same vocabulary that a search compares the model with",
}


def _default(key: str, entry: Entry, shared: dict[str, Any]) -> Any:
    if key in entry.settings:
        return entry.settings[key].default
    return REQUIRED if key == "model" else field_default(shared[key])


def type_text(annotation: str) -> str:
    """A type in words a user knows.

    >>> type_text("list[Component]"), type_text("float | None")
    ('list of names', 'float')
    """
    parts = [part.strip() for part in annotation.split(" | ")]
    parts = [part for part in parts if part != "None"]
    if len(parts) > 1:
        return " or ".join(map(type_text, parts))
    text = parts[0] if parts else ""
    if text.startswith("Literal["):
        choices = text.removeprefix("Literal[").removesuffix("]").replace("'", "").split(", ")
        return ", ".join(choices) if len(choices) == 1 else "one of " + ", ".join(choices)
    if text.startswith("list["):
        inner = type_text(text.removeprefix("list[").removesuffix("]"))
        return f"list of {inner}s" if inner in ("name", "int", "float") else f"list of {inner}"
    if text == "Component":
        return "name"
    if text.startswith("dict["):
        return "mapping"
    return TYPES.get(text, f"keys of {text}" if text in keys.CLASSES else text)
