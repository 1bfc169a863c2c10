"""The settings that are measured: ours, the peer's default, and where a sweep looks for the peer's
best.

A setting of the peer holds what differs from its defaults; side_trl.py lists the keys.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

Setting = dict[str, Any]

DEFAULT: Setting = {}
PADDED: Setting = {"precision": "fp32", "checkpointing": False}
"""The whole step as one padded batch in float32: what all settings are compared with."""

OURS: list[Setting] = [{"precision": "fp32"}, {"precision": "bf16"}]
OURS_ALSO: dict[str, list[Setting]] = {"grpo-4k": [{"precision": "bf16", "micro_tokens": 8192}]}
"""The budget of 2,048 tokens cuts this workload's tree, so its trunk is computed once per
completion.
"""


@dataclass(frozen=True)
class Stage:
    """Changes that are tried, one at a time, on the best setting so far by `aim`."""

    aim: Literal["seconds", "peak_mib"]
    changes: tuple[Setting, ...]


def _micros(*sizes: int) -> tuple[Setting, ...]:
    return tuple({"micro": size} for size in sizes)


_KEPT: Setting = {"checkpointing": False, "micro": 2, "precision": "bf16"}
_MEMORY: tuple[Setting, ...] = (
    {"micro": 1},
    {"checkpointing": True},
    {"precision": "bf16"},
    {"precision": "fp32"},
)

_SFT = [
    Stage(
        "seconds", (_KEPT, {**_KEPT, "precision": "fp32"}, {**_KEPT, "precision": "bf16-weights"})
    ),
    Stage("seconds", _micros(1, 4, 8)),
    Stage(
        "seconds",
        (
            {"checkpointing": True},
            {"attention": "eager"},
            {"chunked": True},
            {"padding_free": True},
        ),
    ),
    Stage("seconds", ({"keep_memory": True},)),
    Stage("seconds", ({"order": "grouped", "micro": 4},)),
    Stage("peak_mib", _MEMORY),
    Stage("peak_mib", ({"chunked": True},)),
]
_DPO = [
    Stage("seconds", (_KEPT, {**_KEPT, "precision": "fp32"})),
    Stage("seconds", _micros(1, 4)),
    Stage("seconds", ({"checkpointing": True}, {"attention": "eager"}, {"keep_memory": True})),
    Stage("peak_mib", _MEMORY),
]
_GRPO = [
    Stage("seconds", ({**_KEPT, "micro": 8}, {**_KEPT, "micro": 8, "precision": "fp32"})),
    Stage("seconds", _micros(2, 4, 16)),
    Stage(
        "seconds",
        ({"generation": 32}, {"cache": "static"}, {"attention": "eager"}, {"keep_memory": True}),
    ),
    Stage("peak_mib", _MEMORY),
]
_LONG = [Stage("seconds", _micros(1, 2))]
_SAMPLE = [
    Stage("seconds", ({"prefill_once": True}, {"cache": "static"})),
    Stage("seconds", ({"precision": "bf16-weights"},)),
    Stage("peak_mib", ({"generation": 16},)),
]
STAGES: dict[str, list[Stage]] = {
    "sft": _SFT,
    "dpo": _DPO,
    "dpo-1k": _LONG,
    "reward": _LONG,
    "grpo": _GRPO,
    "grpo-1k": _LONG,
    "sample": _SAMPLE,
    "tokenise": [Stage("seconds", ({"processes": 2},))],
    "grpo-tiny": [Stage("seconds", ({"micro": 2, "generation": 4},))],
    "sample-tiny": [Stage("seconds", ({"prefill_once": True}, {"generation": 2}))],
    "sft-tiny": [
        Stage("seconds", ({"checkpointing": False, "micro": 1},)),
        Stage("peak_mib", ({"precision": "fp32"},)),
    ],
}
SEEDS = {"dpo-1k": "dpo", "reward": "dpo", "grpo-1k": "grpo", "grpo-4k": "grpo-1k"}
"""Whose best settings a workload's sweep begins with."""

SWEPT = ["sft", "dpo", "grpo", "sample", "dpo-1k", "grpo-1k"]


def key(setting: Setting) -> str:
    """A setting as one text, the same whatever the order of its keys."""
    return json.dumps(setting, sort_keys=True)


def normal(setting: Setting, rows: int) -> Setting:
    """Without what says the default: two settings that run alike are equal. rows: of a whole
    step.
    """
    defaults = {"precision": "bf16", "checkpointing": True}
    whole = [name for name in ("micro", "generation") if setting.get(name, 0) >= rows]
    return {
        name: value
        for name, value in sorted(setting.items())
        if defaults.get(name) != value and name not in whole
    }


def label(setting: Setting, kind: str) -> str:
    """A setting in words."""
    return ", ".join(_words(setting, kind)) or "nothing set"


_VALUES = {
    "attention": "{} attention",
    "cache": "{} cache",
    "workers": "{} loader process",
    "processes": "{} processes",
}
_SWITCHES = {
    "padding_free": "padding-free",
    "chunked": "loss in chunks",
    "prefill_once": "prompt computed once",
    "keep_memory": "allocator keeps memory",
}


def _words(setting: Setting, kind: str) -> Iterator[str]:
    precisions = {
        "bf16": "bfloat16 autocast",
        "fp32": "float32",
        "bf16-weights": "bfloat16 weights",
    }
    if "precision" in setting:
        yield precisions[setting["precision"]]
    if "micro" in setting:
        unit = "pairs" if kind == "dpo" else "rows"
        yield f"{setting['micro']} {unit[:-1] if setting['micro'] == 1 else unit} at a time"
    if "micro_tokens" in setting:
        yield f"micro-batches of {setting['micro_tokens']:,} tokens"
    if "checkpointing" in setting:
        yield "activation checkpointing" if setting["checkpointing"] else "activations kept"
    if "order" in setting:
        yield {"grouped": "batches by length", "rebalanced": "micro-batches rebalanced"}[
            setting["order"]
        ]
    if "generation" in setting:
        yield f"{setting['generation']} completions at a time"
    for name, words in _VALUES.items():
        if name in setting:
            yield words.format(setting[name])
    for name, words in _SWITCHES.items():
        if setting.get(name):
            yield words
