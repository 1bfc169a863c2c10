"""Which keys of a recipe may change when a run is resumed.

free       never touches the weights: cadences, names, reports, what is measured
rounding   the same result up to the rounding of sums: memory and placement
content    paths: what lies there decides (see `fingerprint`), not its name
length     how long to train: free where no step so far would have been another
accept     honoured from the next step on, if it is named: `posttrain resume RUN KEY=VALUE --accept
           KEY`, or pt.fit(..., resume=True, accept=["KEY"])
refused    a checkpoint cannot honour it: start a new run from the checkpoint's model
"""

from __future__ import annotations

import contextlib
import dataclasses
import typing
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from posttrain import registry
from posttrain.config import Recipe
from posttrain.errors import ConfigError, nearest
from posttrain.training.settings import TrainingSettings

Rule = Literal["free", "rounding", "content", "length", "accept", "refused"]

RULES: dict[Rule, tuple[str, ...]] = {
    "free": (
        "title",
        "output",
        "report_to",
        "save_every",
        "save_seconds",
        "save_final",
        "save_total_limit",
        "eval_every",
        "eval_data",
        "evaluation",
        "reward_timeout_seconds",
        "max_failed_rewards",
        "measure_tied_groups",
        "model.trust_remote_code",
        "model.revision",
        "teacher.trust_remote_code",
        "cache_reference",
        "launch",
        "engine.url",
        "engine.launch",
        "engine.weights_folder",
        "engine.max_logprob_gap",
        "engine.max_concurrent",
        "engine.timeout",
        "engine.max_retries",
        "engine.key_variable",
    ),
    "rounding": (
        "max_tokens_per_micro_batch",
        "shard",
        "model.device",
        "model.attention",
        "model.gradient_checkpointing",
        "model.activation_offload",
        "model.compile",
        "teacher.device",
        "teacher.attention",
    ),
    "content": (
        "data",
        "task.path",
        "plugins",
        "mix_data",
        "mix_task",
        "teacher.path",
        "teacher.revision",
        "critic.path",
        "model.path",
        "model.tokenizer",
        "model.chat_template",
        "model.in_memory",
        "teacher.in_memory",
    ),
    "length": ("max_steps", "num_train_epochs", "num_rounds", "schedule_steps"),
    "accept": (
        "learning_rate",
        "lr_scheduler_type",
        "warmup_steps",
        "min_lr_ratio",
        "compute_dtype",
        "muon_momentum",
        "muon_scale",
        "ema_decay",
        "weight_decay",
        "adam_beta1",
        "adam_beta2",
        "adam_epsilon",
        "max_grad_norm",
        "batch_size",
        "task",
        "losses",
        "penalties",
        "rewards",
        "sampling",
        "num_generations",
        "num_iterations",
        "num_minibatches",
        "mask_truncated",
        "max_resamples",
        "overlap",
        "max_prompts_dropped",
        "drop_duplicates",
        "critic_learning_rate",
        "neftune_noise_alpha",
        "mix_batch_size",
        "watch",
    ),
    # Whatever is named nowhere is refused too: method, seed, adapters, precision, and settings that
    # a checkpoint's state has taken over (a KL weight that follows a target, a round's kept rows).
    "refused": (
        "method",
        "seed",
        "optimizer",
        "stages",
        "model",
        "model.lora",
        "model.adapter",
        "model.dtype",
        "model.quantization",
    ),
}

CONTENTS = ("data", "weights", "plugins")
"""What is compared by content, and can be accepted by these names. (Another tokenizer is
refused.)
"""


def rule_of(key: str) -> Rule:
    """The rule of a dotted key: that of the longest key in the table that it is or lies below."""
    place = {name: rule for rule, names in RULES.items() for name in names}
    parts = key.split(".")
    for length in range(len(parts), 0, -1):
        rule = place.get(".".join(parts[:length]))
        if rule is not None:
            return rule
    return "refused"


@dataclass(frozen=True, slots=True)
class Change:
    """A key whose value differs, or content that does. name: under which it is accepted.
    reason: why it matters.
    """

    name: str
    rule: Rule
    text: str
    reason: str = ""


def recipe_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """The keys that differ between two plain recipes, dotted; an item of a list counts as its
    list.

    A key that the older one lacks has its default there: a run goes on after an update of the
    package that brought new settings.
    """
    old, new = _flat(before), _flat(now)
    changes = []
    for key in sorted(old.keys() | new.keys()):
        added = key not in old and new[key] == _default(str(now.get("method", "")), key)
        if not added and old.get(key) != new.get(key):
            rule = rule_of(key)
            name = key.split(".")[0] if rule in ("accept", "length") else key
            changes.append(
                Change(name, rule, f"{key}: {_shown(old.get(key))} -> {_shown(new.get(key))}")
            )
    return changes


def check_accepted(names: Iterable[str]) -> None:
    """Refuse to accept what cannot be accepted.

    Raises:
        ConfigError: names the nearest that can.
    """
    acceptable = {*RULES["accept"], *RULES["length"], *CONTENTS}
    for name in names:
        if name not in acceptable:
            raise ConfigError(
                f"accept {name!r}: no change by this name can be accepted: "
                f"{nearest(name, acceptable)}"
            )


def refusals(changes: Iterable[Change], accepted: Collection[str]) -> list[Change]:
    """The changes that a resume must not make: those that cannot be honoured, and those that
    nobody accepted.
    """
    return [
        c for c in changes if c.rule == "refused" or (c.rule == "accept" and c.name not in accepted)
    ]


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, part in value.items():
        if isinstance(part, Mapping):
            flat |= _flat(part, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = part
    return flat


def _default(method: str, key: str) -> Any:
    """The default of a dotted key; None where it has none."""
    name, *path = key.split(".")
    field = {f.name: f for f in dataclasses.fields(TrainingSettings)}.get(name)
    value = None if field is None else field.default
    if field is None and method in registry.methods.names():
        setting = registry.methods.entry(method).settings.get(name)
        # Where None is a choice of its own, a key that is not there may be that choice.
        is_clear = setting is not None and "None" not in setting.annotation
        value = setting.default if setting is not None and is_clear else None
    if field is None and value is None and path:
        value = _section(name)
    for part in path:
        value = value.get(part) if isinstance(value, Mapping) else getattr(value, part, None)
    return value


def _section(name: str) -> Any:
    """A section of a recipe with its defaults; None where there is none or it needs a value."""
    hint = typing.get_type_hints(Recipe).get(name)
    for kind in typing.get_args(hint) or (hint,):
        if dataclasses.is_dataclass(kind):
            with contextlib.suppress(TypeError):
                return kind()  # type: ignore[operator]
    return None


def _shown(value: Any) -> str:
    text = "(not set)" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
