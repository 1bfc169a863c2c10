"""`posttrain init METHOD`: a recipe with the required keys, and all others as comments."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from posttrain import keys, registry
from posttrain.cli import help as pages
from posttrain.cli.settings import SettingLine, settings_of
from posttrain.descriptions import first_sentence
from posttrain.errors import ConfigError
from posttrain.registry import REQUIRED, Entry
from posttrain.terminal import echo

_ROWS: dict[str, list[dict[str, Any]]] = {
    "default": [
        {"prompt": "What is 2 + 3?", "completion": " 5"},
        {"prompt": "What is 4 + 3?", "completion": " 7"},
    ],
    "pairs": [
        {"prompt": "What is 2 + 3?", "chosen": " 5", "rejected": " 6"},
        {"prompt": "What is 4 + 3?", "chosen": " 7", "rejected": " 43"},
    ],
    "labels": [
        {"prompt": "What is 2 + 3?", "completion": " 5", "label": True},
        {"prompt": "What is 4 + 3?", "completion": " 43", "label": False},
    ],
    "lists": [
        {"prompt": "What is 2 + 3?", "completions": [" 5", " 6"], "scores": [1.0, 0.0]},
        {"prompt": "What is 4 + 3?", "completions": [" 7", " 43"], "scores": [1.0, 0.0]},
    ],
    "rewards": [
        {"prompt": "What is 2 + 3?", "completion": " 5", "reward": 1.0},
        {"prompt": "What is 2 + 3?", "completion": " 6", "reward": 0.0},
    ],
    "samples": [
        {
            "prompt": f"Q: {a}+1*2\nA:",
            "completion": f" {a}+1={a + 1}\n{a + 1}*2={given}\n#### {given}",
            "answer": str(2 * a + 2),
            "reward": float(given == 2 * a + 2),
        }
        for a, given in ((2, 7), (7, 16))
    ],
    "classes": [
        {"text": "A fine film", "label": "good"},
        {"text": "A dull film", "label": "bad"},
    ],
}
_SAMPLE_OF = {
    "dpo": "pairs",
    "reward_model": "pairs",
    "evaluate_reward": "pairs",
    "kto": "labels",
    "listwise": "lists",
    "offline": "rewards",
    "restarts": "samples",
    "classifier": "classes",
}
_OWN_LINES = {
    "active": [
        "use: sft                        # classes, sft, demonstrations or preferences",
        "eval_task: {name: arithmetic, split: test}",
        "selectors: [sequence_entropy, random]",
    ],
    "classifier": ["labels: [good, bad]             # the classes"],
}
"""Required keys of single methods."""


_DOMAINS = {
    "sums": [{"text": f"{i} + {i + 1} = {2 * i + 1}"} for i in range(40)],
    "counts": [{"text": f"{i}, {i + 1}, {i + 2}, {i + 3}"} for i in range(40)],
}
"""Rows of a method on a folder of domains."""

_WIDTH = 80  # columns of the comments


def init(
    method: str, file: str | None, *, force: bool = False, values: Mapping[str, str] = {}
) -> int:
    """Write a recipe that `posttrain check` accepts as it is, with a few sample rows if needed.

    Args:
        values: of model, data and task, where they are given.

    Raises:
        ConfigError: there is no such method, it does not take a value, or the file exists.
    """
    entry = registry.methods.entry("evaluate" if method == "eval" else method)
    _refuse_untaken(entry, values)
    path = Path(file or f"{entry.name}.yaml")
    sample = path.with_name(f"{path.stem}_sample{'' if _has_domains(entry) else '.jsonl'}")
    writes_rows = _needs_rows(entry) and not {"data", "task"} & set(values)
    for place in (path, *([sample] if writes_rows else [])):
        if place.exists() and not force:
            raise ConfigError(f"{place} exists; choose another FILE, or replace it with --force")
    path.parent.mkdir(parents=True, exist_ok=True)
    if writes_rows:
        _write_sample(entry, sample)
        echo(f"wrote {sample}: sample rows; put your own under data in {path}")
    path.write_text(recipe_text(entry, sample.name, values), encoding="utf-8")
    echo(f"wrote {path}\n\ncheck it:  posttrain check {path}\nrun it:    posttrain run {path}")
    return 0


def _has_domains(entry: Entry) -> bool:
    """Whether the data of a method are a folder of domains."""
    return "data" in entry.settings and entry.settings["data"].annotation == "Domains"


def _write_sample(entry: Entry, sample: Path) -> None:
    """Sample rows in a file, or in a file for each domain."""
    files = {sample: _ROWS[_SAMPLE_OF.get(entry.name, "default")]}
    if _has_domains(entry):
        sample.mkdir(exist_ok=True)
        files = {sample / f"{name}.jsonl": rows for name, rows in _DOMAINS.items()}
    for file, rows in files.items():
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _needs_rows(entry: Entry) -> bool:
    """Whether the recipe is written with sample rows: no task can take their place."""
    both = "task" in entry.settings and entry.name not in _SAMPLE_OF
    return "data" in entry.settings and not both


def _refuse_untaken(entry: Entry, values: Mapping[str, str]) -> None:
    """Refuse what a method does not take, and rows beside a task.

    Raises:
        ConfigError: names the flag.
    """
    taken = {"model", *entry.settings} | ({"task"} if entry.name == "evaluate" else set())
    for name in values:
        if name not in taken:
            both = [flag for flag in ("model", "data", "task") if flag in taken]
            raise ConfigError(
                f"--{name}: method {entry.name} does not take it; it takes "
                f"{', '.join(f'--{flag}' for flag in both)}"
            )
    if "data" in values and "task" in values:
        raise ConfigError("--data and --task both say where the rows are from; keep one")


def recipe_text(entry: Entry, sample: str, values: Mapping[str, str] = {}) -> str:
    """A recipe of a method: required keys, and every other key as a comment with its default.

    Args:
        sample: name of the file of sample rows, for a method on rows.
        values: of model, data and task, where they are given.
    """
    title = textwrap.wrap(f"{pages.summary(entry.doc)}.", _WIDTH - 2)
    lines = [f"# {row}" for row in title]
    lines += [f"# `posttrain {entry.name} --help` explains the keys.", "", f"method: {entry.name}"]
    lines += _given(_required(entry, sample), entry, values)
    written = {"model.path", "data.path", "evaluation.task", "output"}
    written |= {line.split(":")[0] for line in _OWN_LINES.get(entry.name, [])}
    written |= {"task"} if "task" in values or not _needs_rows(entry) else set()
    if keys.trains(entry):
        written.add("max_steps")
    if "stages" in entry.settings:
        written.add("stages")
    for group, settings in settings_of(entry).items():
        rest = [line for line in settings if line.key not in written]
        if rest:
            lines += ["", f"# -- {group}"]
            lines += [row for line in _nested(rest, sample) for row in line]
    return "\n".join(lines) + "\n"


def _given(lines: list[str], entry: Entry, values: Mapping[str, str]) -> list[str]:
    """The required lines with the values that were given."""
    texts = {name: _yaml_text(value) for name, value in values.items()}
    rows = {"data", "task"} & set(values)
    replaced = {"data", "task"} if rows and entry.name != "evaluate" else set()
    heads = {"model"} & set(values) | replaced | ({"evaluation"} if rows - replaced else set())
    body = [line for line in lines if line.removeprefix("# ").split(":")[0] not in heads]
    new = [f"{name}: {text}" for name, text in texts.items() if name in {"model"} | replaced]
    if rows - replaced:
        new.append(f"evaluation: {{task: {texts['task']}}}")
    return [*new, *body]


def _required(entry: Entry, sample: str) -> list[str]:
    """The keys without which the method does nothing, with values that work at once."""
    lines = ["model: embedded                 # a folder, a hub id, or the small model inside"]
    if "task" in entry.settings and not _needs_rows(entry):
        lines.append("task: arithmetic                # prompts and grades; `posttrain ls tasks`")
        lines.append("# task: {name: jsonl, path: rows.jsonl}    # your own prompts and answers")
    elif _needs_rows(entry):
        lines.append(f"data: {sample:<24}  # your rows: a file, a folder or a hub id")
    if "reward_model" in entry.settings:
        lines.append("reward_model: embedded          # what each reward model starts from")
    if "teacher" in entry.settings:
        lines.append("teacher: embedded               # the model to learn from")
    if entry.name == "evaluate":
        lines.append("evaluation: {task: arithmetic}  # `posttrain ls tasks` lists others")
    if "stages" in entry.settings:
        lines += ["stages:", "  - {name: sft, method: sft, task: arithmetic, max_steps: 50}"]
        lines += ["  - {name: grpo, method: grpo, task: arithmetic, max_steps: 50}"]
    lines += _OWN_LINES.get(entry.name, [])
    if entry.name == "evaluate_reward":
        lines[0] = "model: embedded                 # EDIT THIS LINE: the folder of a reward model"
    if keys.trains(entry):
        lines.append("max_steps: 100                  # optimiser steps")
    lines.append(f"output: runs/{entry.name}")
    return lines


def _needed_field(section: str, sample: str) -> list[str]:
    """The field that a section written out in keys cannot do without."""
    fields = {
        "model": "path: embedded",
        "data": f"path: {sample}",
        "evaluation": "task: arithmetic",
    }
    return [f"#   {fields[section]}"] if section in fields else []


def _nested(settings: list[SettingLine], sample: str) -> list[list[str]]:
    """Comment lines of settings. Fields of a section stand indented under its name."""
    blocks: list[list[str]] = []
    section = ""
    for line in settings:
        head, dot, field = line.key.partition(".")
        if dot and head != section:
            blocks.append([f"# {head}:", *_needed_field(head, sample)])
        section = head if dot else ""
        indent = "  " if dot else ""
        default = "..." if line.default is REQUIRED else _yaml_text(line.default)
        text = f"# {indent}{field or head}: {default}"
        meaning = first_sentence(line.meaning) or line.type
        beside = f"{text:<40}  # {meaning}"
        if len(text) <= 40 and len(beside) <= _WIDTH:
            blocks.append([beside])
        else:
            head = f"#   {indent}# "
            comment = textwrap.wrap(meaning, _WIDTH - len(head))
            blocks.append([*(f"{head}{row}" for row in comment), text])
    return blocks


def _yaml_text(value: Any) -> str:
    """A default on one line of YAML."""
    if dataclasses.is_dataclass(value):
        return "{}"
    plain = list(value) if isinstance(value, tuple) else value
    if isinstance(plain, str) and "\n" in plain:
        return json.dumps(plain)
    text = yaml.safe_dump(plain, default_flow_style=True, width=1000, sort_keys=False).strip()
    return text.removesuffix("\n...").strip()
