"""Names that users of other trainers know: where their values live here, or what to write instead.

A name is resolved for the method at hand: `temperature` is `sampling.temperature` of a method that
samples, and `evaluation.sampling.temperature` of one that only evaluates.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from posttrain import keys
from posttrain.errors import ConfigError
from posttrain.registry import Entry

ALIASES = {
    "model_name_or_path": "model.path",
    "torch_dtype": "model.dtype",
    "gradient_checkpointing": "model.gradient_checkpointing",
    "chat_template_path": "model.chat_template",
    "lora_r": "model.lora.r",
    "lora_alpha": "model.lora.alpha",
    "lora_dropout": "model.lora.dropout",
    "lora_target_modules": "model.lora.target_modules",
    "use_dora": "model.lora.use_dora",
    "teacher_model_name_or_path": "teacher.path",
    "dataset_name": "data.path",
    "dataset_config": "data.subset",
    "dataset_train_split": "data.split",
    "max_length": "data.max_length",
    "output_dir": "output",
    "per_device_train_batch_size": "batch_size",
    "save_steps": "save_every",
    "eval_steps": "eval_every",
    "max_completion_length": "sampling.max_tokens",
    "temperature": "sampling.temperature",
    "top_p": "sampling.top_p",
    "top_k": "sampling.top_k",
    "min_p": "sampling.min_p",
    "lr": "learning_rate",
}
"""Name elsewhere -> dotted place here."""


class Advice(NamedTuple):
    """What to write instead of a name that has no counterpart.

    Attributes:
        text: the way out.
        setting: key that a method must read for the advice to be of use to it; "" for any method.
    """

    text: str
    setting: str = ""


ELSEWHERE = {
    "gradient_accumulation_steps": Advice(
        "max_tokens_per_micro_batch decides how many micro-batches a step has; batch_size is the "
        "whole step"
    ),
    "packing": Advice("rows are always packed and never attend to one another"),
    "padding_free": Advice("there is no padding"),
    "bf16": Advice("set model.dtype=bfloat16"),
    "fp16": Advice("set model.dtype=bfloat16"),
    "use_cpu": Advice("set model.device=cpu"),
    "use_peft": Advice("set model.lora.r=16"),
    "load_in_4bit": Advice("set model.quantization=nf4"),
    "load_in_8bit": Advice("set model.quantization=int8"),
    "label_smoothing_factor": Advice(
        "set losses: [{name: label_smoothing, epsilon: 0.1}]", "losses"
    ),
    "reward_weights": Advice(
        "write the weight beside each reward: rewards: [{name: ..., weight: ...}]", "rewards"
    ),
    "reward_funcs": Advice("list them under rewards", "rewards"),
    "loss_type": Advice(
        "list losses under losses: [{name: ...}]; see `posttrain ls losses`", "losses"
    ),
    "epsilon": Advice("set clip_low and clip_high, settings of the loss 'clipped'", "advantage"),
    "epsilon_high": Advice("set clip_high, a setting of the loss 'clipped'", "advantage"),
    "scale_rewards": Advice("set advantage.scale=group, batch or none", "advantage"),
    "beta": Advice(
        "add {name: kl, weight: 0.04} to losses for a KL term, or set credit.kl_weight for KL in "
        "the reward",
        "advantage",
    ),
    "warmup_ratio": Advice("set warmup_steps to a share below 1", "learning_rate"),
    "logging_steps": Advice("every step is logged"),
    "resume_from_checkpoint": Advice("run `posttrain resume RUN`"),
    "push_to_hub": Advice(
        "RUN/model is a complete Hugging Face model; upload it with huggingface-cli"
    ),
}
"""Names that have no counterpart."""


def advice(key: str, entry: Entry) -> str:
    """The way out for a name of another trainer, or "" if there is none for this method."""
    item = ELSEWHERE.get(key)
    if item is None or (item.setting and item.setting not in keys.keys_read(entry)):
        return ""
    return item.text


def place_of(name: str, entry: Entry | None) -> str:
    """The dotted place of a key, which may be a name of another trainer.

    >>> place_of("lora_r", None)
    'model.lora.r'
    >>> place_of("learning_rate", None)
    'learning_rate'
    """
    place = ALIASES.get(name, name)
    if place == name or entry is None:
        return place
    method_keys = keys.keys_read(entry)
    if name in method_keys:  # the method has a setting of that name
        return name
    section = place.partition(".")[0]
    if section == "sampling" and section not in method_keys and "evaluation" in method_keys:
        return f"evaluation.{place}"
    return place


def resolve(raw: Mapping[str, Any], entry: Entry | None) -> list[tuple[str, str, Any]]:
    """The names of other trainers among a recipe's keys: (name, place, value) of each.

    Raises:
        ConfigError: the method does not read the section that a name belongs to, or the recipe
            sets name and place.
    """
    pairs = []
    for name in raw:
        place = place_of(name, entry)
        if place == name:
            continue
        if entry is not None:
            _refuse_unread_section(name, place, entry)
        if contains(raw, place):
            raise ConfigError(f"{name!r} and {place!r} are the same setting; keep one")
        pairs.append((name, place, raw[name]))
    return pairs


def _refuse_unread_section(name: str, place: str, entry: Entry) -> None:
    section = place.partition(".")[0]
    if section in keys.keys_read(entry) or "stages" in entry.settings:
        return
    more = ""
    if name == "max_length" and "sampling" in entry.settings:
        more = "; the length of completions is sampling.max_tokens"
    raise ConfigError(
        f"{name}: method {entry.name!r} does not read it ({name} is {place} here); "
        f"leave it out{more}"
    )


def contains(node: Any, place: str) -> bool:
    """Whether nested mappings have a value at a dotted place."""
    for key in place.split("."):
        if not isinstance(node, Mapping) or key not in node:
            return False
        node = node[key]
    return True
