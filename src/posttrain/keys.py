"""Which keys of a recipe a method reads: those of its signature, and those of every run.

A key that nothing reads is an error. Top-level keys are refused by name (`unread_keys`). The fields
of a `data` section are watched while a method prepares its job, and a field that this method does
not read is refused as well.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from posttrain.annotations import spelled
from posttrain.config import (
    OF_EVERY_TRAINING,
    AdapterConfig,
    AgentConfig,
    ClusterConfig,
    Component,
    CreditConfig,
    DataConfig,
    EndpointConfig,
    EvaluationConfig,
    ForgettingConfig,
    LaunchConfig,
    LoraConfig,
    ModelConfig,
    OverlapConfig,
    Recipe,
    SamplingConfig,
    ServedConfig,
    TrustRegionConfig,
    WatchConfig,
)
from posttrain.errors import ConfigError
from posttrain.registry import Entry, Setting

OF_EVERY_RUN = ("method", "model", "title", "output", "seed", "plugins")
"""Read by a run itself, whatever the method."""

OF_TRAINING = ("max_steps", "learning_rate", "lr_scheduler_type", "launch", *OF_EVERY_TRAINING)
"""Read by `fit`, so by every method that trains."""

OF_REWARDS = ("reward_timeout_seconds", "max_failed_rewards")
"""Read where rewards are called: by methods with rewards, or with a scorer of a search."""

OF_PROMPTS = ("max_prompts_dropped",)
"""Read where a task's prompts are encoded, for sampling or for an evaluation."""

INHERITED = ("evaluation", "report_to")
"""A pipeline hands these to each of its stages that reads them."""

IN_YAML: dict[str, Any] = {
    "Rows": DataConfig,
    "Domains": DataConfig,
    "TaskLike": Component,
    "EnvironmentLike": Component,
    "ComponentLike": Component,
    "LabellerLike": Component,
    "Losses": list[Component],
    "Rewards": list[Component],
    "Selectors": list[Component],
    "ModelLike": ModelConfig,
}
"""What a recipe writes for what a method takes: an object's configuration, or its name."""

CLASSES: dict[str, Any] = {
    c.__name__: c
    for c in (
        AdapterConfig,
        AgentConfig,
        ClusterConfig,
        Component,
        CreditConfig,
        DataConfig,
        EndpointConfig,
        EvaluationConfig,
        ForgettingConfig,
        LaunchConfig,
        LoraConfig,
        ModelConfig,
        OverlapConfig,
        SamplingConfig,
        ServedConfig,
        TrustRegionConfig,
        WatchConfig,
    )
}
"""The sections of a recipe, by the name of their class."""

Section = TypeVar("Section")


def trains(entry: Entry) -> bool:
    """Whether a method leaves a trained model."""
    return "trains" in entry.declared


def measures(entry: Entry) -> bool:
    """Whether a run of the method may be measured on problems: of language models alone."""
    return entry.declared.get("trains") == "language"


def annotation_of(key: str, entry: Entry | None) -> str:
    """The type of a top-level key, as written: "" for a key that the method does not have.

    >>> annotation_of("seed", None)
    'int'
    """
    types = typing.get_type_hints(Recipe)
    if key in types:
        return spelled(types[key])
    if entry is None or key not in entry.settings:
        return ""
    return spelled(in_yaml(entry.settings[key]))


def field_annotation(annotation: str, field: str) -> str:
    """The type of a section's field, where `annotation` is the section's type."""
    section = CLASSES.get(class_name(annotation))
    hints = typing.get_type_hints(section) if section is not None else {}
    return spelled(hints[field]) if field in hints else ""


def class_name(annotation: str) -> str:
    """The class that an annotation of a single section names.

    >>> class_name("LoraConfig | None")
    'LoraConfig'
    """
    return annotation.partition(" ")[0]


def keys_read(entry: Entry) -> set[str]:
    """The top-level keys that a method reads."""
    keys = {*OF_EVERY_RUN, *entry.settings} - {"limits"}
    if {"rewards", "scorer"} & entry.settings.keys():
        keys.update(OF_REWARDS)
    if {"evaluation", "sampling"} & entry.settings.keys() or measures(entry):
        keys.update(OF_PROMPTS)
    if trains(entry):
        keys.update(OF_TRAINING)
        if measures(entry):
            keys.update(("evaluation", "forgetting"))
    elif "stages" in entry.settings:
        keys.update(INHERITED)
    elif "evaluation" in entry.settings:
        keys.discard("seed")  # an evaluation draws by evaluation.seed, the same for every model
    return keys


def in_yaml(setting: Setting) -> Any:
    """The type of a recipe's value for a method's parameter."""
    name, optional, _ = setting.annotation.partition(" | None")
    if name not in IN_YAML:
        return setting.hint
    return IN_YAML[name] | None if optional else IN_YAML[name]


# Numbers that every recipe.yaml of version 0.1.0 holds.
_ALWAYS_WRITTEN = {
    "seed",
    "num_train_epochs",
    "batch_size",
    "learning_rate",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "warmup_steps",
    "min_lr_ratio",
    "max_grad_norm",
    "save_every",
    "save_total_limit",
    "eval_every",
}


def without_old_defaults(raw: Mapping[str, Any], entry: Entry) -> dict[str, Any]:
    """The recipe without the defaults that an older version wrote into a run's recipe.yaml.

    It wrote every field, also those that the method does not read.

    A recipe that somebody wrote does not hold every one of these fields, so nothing is taken from
    it.
    """
    defaults = {
        f.name: f.default
        for f in dataclasses.fields(Recipe)
        if isinstance(f.default, int | float | str)
    }
    if not raw.keys() >= _ALWAYS_WRITTEN:
        return dict(raw)
    allowed = keys_read(entry)
    rest = {
        k: v
        for k, v in raw.items()
        if k in allowed or (k != "seed" and (k not in defaults or v != defaults[k]))
    }
    if isinstance(rest.get("evaluation"), Mapping):
        rest["evaluation"] = {
            k: v for k, v in rest["evaluation"].items() if k != "ks"
        }  # was read by nobody
    return rest


def refuse_unread_values(recipe: Recipe, entry: Entry) -> None:
    """Refuse settings that change nothing beside the others of the recipe.

    Raises:
        ConfigError: a cadence of measurements of nothing, adapters of a model that is not trained.
    """
    if recipe.eval_every and recipe.eval_data is None and recipe.evaluation is None:
        ways = [k for k in ("eval_data", "evaluation") if k in keys_read(entry)]
        raise ConfigError(
            f"eval_every: {recipe.eval_every} measures nothing; set {' or '.join(ways)}, or leave "
            "it out"
        )
    if "stages" in entry.settings:
        return
    models = {"model": recipe.model, **recipe.settings}
    trained = {"critic", *(["model"] if trains(entry) else [])}
    for key, config in models.items():
        if isinstance(config, ModelConfig) and key not in trained:
            _refuse_adapters(key, config, entry)


def _refuse_adapters(key: str, config: ModelConfig, entry: Entry) -> None:
    fresh = [name for name in ("lora", "adapter") if getattr(config, name) is not None]
    if config.quantization != "none":
        fresh = []  # quantised weights are loaded through a LoRA
    fresh += ["gradient_checkpointing"] * config.gradient_checkpointing
    fresh += ["activation_offload"] * config.activation_offload
    if fresh:
        raise ConfigError(
            f"{key}.{fresh[0]}: method {entry.name!r} does not train this model, and a fresh "
            "adapter changes nothing; leave it "
            "out. Adapters that were trained are loaded with the folder that holds them"
        )


class Watch:
    """Remembers which fields of a recipe's `data` sections are read.

    >>> watch = Watch()
    >>> data = watch.section("data", DataConfig("rows.jsonl", limit=3))
    >>> data.path
    'rows.jsonl'
    >>> watch.unread()
    ['data.limit']
    """

    def __init__(self) -> None:
        self._sections: dict[str, tuple[Any, set[str]]] = {}

    def section(self, name: str, value: Section) -> Section:
        """An equal section whose reads are remembered; anything but a `data` section is left as
        is.
        """
        if not isinstance(value, DataConfig):
            return value
        reads: set[str] = set()

        def read(self: Any, field: str) -> Any:
            reads.add(field)
            return object.__getattribute__(self, field)

        kind = type(DataConfig.__name__, (DataConfig,), {"__slots__": (), "__getattribute__": read})
        copy = kind(**{f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
        reads.clear()  # of what its own checks have read
        self._sections[name] = (value, reads)
        return copy

    def unread(self) -> list[str]:
        """Fields with another value than their default that nobody has read."""
        return [
            f"{name}.{f.name}"
            for name, (value, reads) in self._sections.items()
            for f in dataclasses.fields(value)
            if f.name not in reads and getattr(value, f.name) != _default(f)
        ]


def _default(field: dataclasses.Field[Any]) -> Any:
    factory = field.default_factory
    return field.default if factory is dataclasses.MISSING else factory()


def refuse_unread_fields(method: str, unread: Iterable[str]) -> None:
    """Refuse the fields of a section that a method has passed over.

    Raises:
        ConfigError: names the first of them.
    """
    for place in unread:
        field = re.sub(r"^.*\.", "", place)
        raise ConfigError(
            f"{place}: method {method!r} does not read {field} with these settings; leave it out"
        )
