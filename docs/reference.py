"""Writes the pages of the reference from the code, when the site is built.

Nothing here is kept in the repository: the text is that of the docstrings.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from docstrings import (
    REQUIRED,
    Field,
    annotation_text,
    call_text,
    class_fields,
    escape,
    fields_text,
    function_fields,
    prose,
    rest_text,
    sections,
    with_public_names,
)

import posttrain as pt
from posttrain import face, keys
from posttrain.config import Recipe
from posttrain.descriptions import descriptions
from posttrain.registry import REGISTRIES

KINDS = {
    "losses": ("Losses", "`pt.loss.NAME`, and `losses=` of a method", "loss"),
    "advantages": ("Advantages", "`pt.advantage.NAME`, and `advantage=`", "advantage"),
    "rewards": ("Rewards", "`pt.reward.NAME`, and `rewards=`", "reward"),
    "tasks": ("Tasks", "`pt.task.NAME`, and the first argument of `pt.grpo`", "task"),
    "environments": ("Environments", "`pt.environment.NAME`, and `environment=`", "environment"),
    "retentions": ("Retention methods", "`retention=` of `pt.continual`", "retention"),
    "qualities": ("Measures of rows", "`pt.quality.NAME`, and `measures=`", "quality"),
    "selectors": ("Selectors", "`selector=` of `pt.active`", "selector"),
    "labellers": ("Labellers", "`labeller=` of `pt.active`", "labeller"),
    "selections": ("Selections", "`selection=` of `pt.icl`", "selection"),
    "orders": ("Orders", "`order=` of `pt.icl`", "order"),
    "calibrations": ("Calibrations", "`calibration=` of `pt.icl`", "calibration"),
    "searches": ("Searches", "`search=` of `pt.evaluate`", "search"),
}


def write(folder: Path) -> None:
    """Write all pages into a folder; pages whose text is the same are left alone."""
    os.environ["COLUMNS"] = "78"
    pages = {
        "functions": with_public_names(functions_page()),
        "methods": with_public_names(methods_page()),
        "jobs": with_public_names(jobs_page()),
        "values": with_public_names(values_page()),
        **{kind: registry_page(kind) for kind in KINDS},
        "recipes": recipes_page(),
        "commands": commands_page(),
    }
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.md"):
        if old.stem not in pages:
            old.unlink()
    for name, text in pages.items():
        path = folder / f"{name}.md"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def functions_page() -> str:
    """The public functions that are no methods."""
    methods = set(REGISTRIES["methods"].names())
    names = [n for n in face.NAMES if n[0].islower() and n not in methods] + ["evaluate"]
    parts = ["# Functions", "`import posttrain as pt`. Importing it loads no PyTorch."]
    for name in dict.fromkeys(names):
        parts.append(function_text(f"pt.{name}", getattr(pt, name)))
    return join(parts)


def methods_page() -> str:
    """The methods that make plans."""
    registry = REGISTRIES["methods"]
    names = [n for n in registry.names() if n in face.NAMES and n != "evaluate"]
    parts = [
        "# Methods",
        "A method is a function from objects to a plan, which [`pt.fit`](functions.md#pt-fit) "
        "trains. In a recipe its parameters are keys, and the examples in the texts below are "
        'written as in a recipe: `losses: [simpo]` is `losses=["simpo"]` in Python.',
    ]
    parts += [function_text(f"pt.{name}", registry.get(name)) for name in names]
    return join(parts)


def jobs_page() -> str:
    """Functions of a model that train nothing."""
    parts = [
        "# Jobs",
        "These do work with a model and train nothing. The first argument is the model. All also "
        "take `output` (a folder for the files), `seed` and `console`.",
    ]
    parts += [function_text(f"pt.{name}", getattr(pt, name), model=True) for name in face.JOBS]
    return join(parts)


def values_page() -> str:
    """The public classes."""
    parts = ["# Values", "Plain data that methods take and results that they give."]
    parts += [class_text(n, getattr(pt, n)) for n in face.NAMES if n[0].isupper()]
    return join(parts)


def function_text(name: str, function: Any, *, model: bool = False) -> str:
    """One function: call, prose, parameters, errors."""
    fields = function_fields(function)
    signature = inspect.signature(function)
    keyword = {p.name for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY}
    if model:
        fields = [Field("model", "", REQUIRED, "loaded, a folder, a hub id, or embedded"), *fields]
    found = sections(function.__doc__ or "")
    # A wrapped function's note on its first arguments stands below its sections.
    return join(
        [
            f"## {name}",
            call_text(name, fields, keyword),
            prose(found[""]),
            fields_text(fields),
            rest_text(found),
        ]
    )


def class_text(name: str, cls: Any) -> str:
    """One class: prose, fields, and the methods it has."""
    found = sections(cls.__doc__ or "")
    is_data = dataclasses.is_dataclass(cls)
    fields = class_fields(cls) if is_data else []
    parts = [f"## pt.{name}", prose(found[""], [f.name for f in fields])]
    if is_data:
        parts.insert(1, call_text(f"pt.{name}", fields))
        parts.append(fields_text(fields))
    elif "Attributes" in found:
        body = found["Attributes"]
        names = re.findall(r"(?m)^(\w+):", body)
        meanings = descriptions(cls.__doc__, names)
        lines = [f"`{n}`\n: {escape(meanings[n][:1].upper() + meanings[n][1:])}.\n" for n in names]
        parts.append("\n".join(lines))
    for member, value in vars(cls).items():
        if not member.startswith("_"):
            parts.append(member_text(name, member, value))
    return join(parts)


def member_text(owner: str, name: str, value: Any) -> str:
    """A method or property of a class; "" for what is neither."""
    if isinstance(value, property):
        found = sections(value.__doc__ or "")
        return join([f"**`{owner}.{name}`**", prose(found[""]), rest_text(found)])
    function = value.__func__ if isinstance(value, classmethod | staticmethod) else value
    if not inspect.isfunction(function) or not function.__doc__:
        return ""
    fields = function_fields(function)
    keyword = {
        p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY
    }
    found = sections(function.__doc__)
    described = [f for f in fields if f.meaning]
    return join(
        [
            call_text(f"{owner}.{name}", fields, keyword),
            prose(found[""], [f.name for f in fields]),
            fields_text(described),
            rest_text(found),
        ]
    )


def registry_page(kind: str) -> str:
    """All functions of a registry, by file."""
    title, use, _ = KINDS[kind]
    by_file: dict[Path, list[Any]] = {}
    for entry in REGISTRIES[kind].entries().values():
        by_file.setdefault(entry.file, []).append(entry)
    parts = [
        f"# {title}",
        f"{use}. Positional parameters are inputs that the toolkit fills in; the listed settings "
        "are keyword arguments, and keys in a recipe.",
    ]
    for file, entries in sorted(by_file.items()):
        topic = file.stem.replace("_", " ")
        parts.append(f"## {topic[:1].upper()}{topic[1:]}")
        parts.append(prose(ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""))
        parts += [entry_text(entry) for entry in sorted(entries, key=lambda e: e.line)]
    return join(parts)


def entry_text(entry: Any) -> str:
    """One registered function."""
    meanings = descriptions(entry.doc, entry.settings.keys())
    fields = [
        Field(name, annotation_text(s.annotation), s.default, meanings.get(name, ""))
        for name, s in entry.settings.items()
    ]
    found = sections(entry.doc)
    facts = []
    if entry.inputs:
        facts.append("Inputs: " + ", ".join(f"`{name}`" for name in entry.inputs) + ".")
    declared = {k: v for k, v in getattr(entry, "declared", {}).items() if v}
    if declared:
        facts.append("Declared: " + ", ".join(f"`{k}={v!r}`" for k, v in declared.items()) + ".")
    elif entry.returns:
        facts.append(f"Returns `{entry.returns}`.")
    return join(
        [
            f"### {entry.name}",
            prose(found[""], list(entry.settings)),
            " ".join(facts),
            fields_text(fields),
            rest_text(found),
        ]
    )


def recipes_page() -> str:
    """The keys of recipes: those of every recipe, then the sections."""
    parts = [
        "# Recipe keys",
        "A recipe is a YAML file: `method`, the method's own settings (see "
        "[methods](methods.md)), and these. On the command line any of them is `key=value`.",
    ]
    for cls in [Recipe, *keys.CLASSES.values()]:
        fields = [f for f in class_fields(cls) if f.name not in ("settings", "base", "function")]
        found = sections(cls.__doc__ or "")
        parts += [f"## {cls.__name__}", prose(found[""], [f.name for f in fields])]
        parts.append(fields_text(fields))
    return join(parts)


def commands_page() -> str:
    """The help of every command."""
    from posttrain.cli.commands import COMMANDS
    from posttrain.cli.parser import command_parser, main_parser

    listed = COMMANDS
    main = main_parser(listed)
    parts = ["# Commands", f"```text\n{main.format_help().rstrip()}\n```"]
    for name in listed:
        text = command_parser(name, listed, main).format_help().rstrip()
        parts.append(f"## posttrain {name}\n\n```text\n{text}\n```")
    return join(parts)


def join(parts: Iterable[str]) -> str:
    """Parts with a blank line between them; empty ones are left out."""
    return "\n\n".join(part.rstrip() for part in parts if part.strip()) + "\n"
