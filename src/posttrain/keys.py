"""Which keys of a recipe a method reads: those of its signature, and those that its run reads.

A key that nothing reads is an error. Top-level keys are refused by name; the fields of a `data`
section are watched while a method prepares its job, so that a field which this method passes over
is refused as well.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from posttrain import registry
from posttrain.config import DataConfig, EvaluationConfig, ModelConfig, Recipe, SamplingConfig
from posttrain.errors import ConfigError, nearest
from posttrain.registry import Entry

OF_EVERY_RUN = ("method", "model", "title", "output", "seed", "plugins")
"""Read by `Run` itself, whatever the method."""

OF_TRAINING = (
    "max_steps",
    "max_tokens_per_micro_batch",
    "learning_rate",
    "penalties",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "lr_scheduler_type",
    "warmup_steps",
    "min_lr_ratio",
    "max_grad_norm",
    "save_every",
    "save_seconds",
    "save_final",
    "save_total_limit",
    "eval_every",
    "report_to",
)
"""Read by `Run.train` and the hooks of a training, so by every method that trains."""

OF_REWARDS = ("reward_timeout_seconds", "max_failed_rewards")
"""Read where rewards are called: by methods with rewards, or with a scorer of a search."""

OF_PROMPTS = ("max_prompts_dropped",)
"""Read where a task's prompts are encoded, for sampling or for an evaluation."""

INHERITED = ("evaluation", "report_to")
"""A pipeline hands these to each of its stages that reads them."""

_SECTIONS = {c.__name__: c for c in (DataConfig, EvaluationConfig, ModelConfig, SamplingConfig)}

Section = TypeVar("Section")


def trains(entry: Entry) -> bool:
    """Whether a method leaves a trained model."""
    return entry.returns == "TrainingJob"


def keys_read(entry: Entry) -> set[str]:
    """The top-level keys that a method reads."""
    keys = {*OF_EVERY_RUN, *entry.settings}
    if {"rewards", "scorer"} & entry.settings.keys():
        keys.update(OF_REWARDS)
    if {"evaluation", "sampling"} & entry.settings.keys():
        keys.update(OF_PROMPTS)
    if trains(entry):
        keys.update(OF_TRAINING)
    elif "stages" in entry.settings:
        keys.update(INHERITED)
    elif "evaluation" in entry.settings:
        keys.discard("seed")  # an evaluation draws by evaluation.seed, the same for every model
    return keys


def refuse_unread(raw: Mapping[str, Any], entry: Entry, elsewhere: Mapping[str, str]) -> None:
    """Refuse top-level keys that the method does not read.

    Args:
        elsewhere: names that have no counterpart, with the way out.
    Raises:
        ConfigError: names the key and the nearest right place.
    """
    allowed = keys_read(entry)
    for key in raw:
        if key in allowed:
            continue
        if key in elsewhere:
            raise ConfigError(f"unknown key {key!r} for method {entry.name!r}: {elsewhere[key]}")
        place = _stage_places(key, raw) or _section_places(key, entry)
        if place:
            raise ConfigError(f"{key}: method {entry.name!r} does not read it; set {place}")
        readers = [
            name for name, other in registry.methods.entries().items() if key in keys_read(other)
        ]
        if readers:
            raise ConfigError(
                f"{key}: method {entry.name!r} does not read it; leave it out. Methods that read "
                f"it: {', '.join(readers)}"
            )
        raise ConfigError(
            f"unknown key {key!r} for method {entry.name!r}: {nearest(str(key), allowed)}"
        )


def _stage_places(key: str, raw: Mapping[str, Any]) -> str:
    """The stages of a pipeline that read the key."""
    stages = [s for s in raw.get("stages") or () if isinstance(s, Mapping)]
    methods = registry.methods.entries()
    places = [
        f"stages.{stage.get('name')}.{key}"
        for stage in stages
        if stage.get("method") in methods and key in keys_read(methods[str(stage["method"])])
    ]
    return " or ".join(places)


def _section_places(key: str, entry: Entry) -> str:
    """The sections of the method that have a field of this name."""
    types = {f.name: str(f.type) for f in dataclasses.fields(Recipe)}
    annotations = {
        name: types.get(name) or entry.settings[name].annotation for name in entry.settings
    }
    places = []
    for name, annotation in annotations.items():
        section = _SECTIONS.get(annotation.partition(" ")[0])
        if section is not None and key in {f.name for f in dataclasses.fields(section)}:
            places.append(f"{name}.{key}")
    return " or ".join(places)


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
        ways = [k for k in ("eval_data", "evaluation") if k in entry.settings]
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
