"""`posttrain ls` and `posttrain explain`: what can be named in a recipe, from docstrings."""

from __future__ import annotations

import argparse
import inspect
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from posttrain import keys
from posttrain.cli import help as pages
from posttrain.cli.settings import function_settings, section_settings, settings_of
from posttrain.config import Recipe
from posttrain.entry import Entry, topic_of
from posttrain.errors import ConfigError, nearest
from posttrain.registry import REGISTRIES, load_plugins
from posttrain.terminal import echo

SETTINGS = "settings"
"""The kind of the sections of recipes, which are no functions."""


def ls(options: argparse.Namespace) -> int:
    """List the functions of one kind, or of all."""
    if options.kind == SETTINGS:
        for name, section in _sections().items():
            echo(f"  {name:<20}{pages.summary(section.__doc__ or '')}")
        return 0
    for kind in [options.kind] if options.kind else REGISTRIES:
        entries = _registry(kind, options.plugin).entries()
        width = max((len(name) for name in entries), default=0)
        echo(f"{kind}")
        groups = (
            _topics(entries.values()) if kind.startswith("loss") else [("", [*entries.values()])]
        )
        for topic, members in groups:
            if topic:
                echo(f"\n  {topic}")
            for entry in members:
                rows = pages.described(pages.summary(entry.doc), pages.width() - width - 4)
                echo(f"  {entry.name:<{width}}  {rows[0]}")
                for row in rows[1:]:
                    echo(f"  {'':<{width}}  {row}")
        echo()
    echo("`posttrain explain KIND NAME` shows the equation, the paper and the settings.")
    return 0


def explain(options: argparse.Namespace) -> int:
    """Show the docstring, inputs and settings of a function, or the fields of a section."""
    if options.kind == SETTINGS:
        return _explain_section(options.name)
    registry = _registry(options.kind, options.plugin)
    entry = registry.entry(options.name)
    doc = pages.reflowed(entry.doc, pages.width())
    echo(f"{registry.kind} {entry.name}   ({entry.place})\n\n{doc}\n")
    for key, value in entry.declared.items():
        meaning = registry.declares[key].choices[value] if registry.declares else ""
        echo(f"{key}: {value}" + (f" ({meaning})" if meaning else ""))
    if registry is REGISTRIES["methods"]:
        echo("settings:")
        for group, lines in settings_of(entry).items():
            echo(f"\n{group}:\n{pages.settings_table(lines)}")
        return 0
    _explain_inputs(registry, entry)
    if entry.settings:
        echo(f"settings:\n{pages.settings_table(function_settings(entry))}")
    return 0


def _topics(entries: Iterable[Entry]) -> list[tuple[str, list[Entry]]]:
    """Entries by the file that holds them; a topic is the first line of the file's docstring."""
    members: dict[Path, list[Entry]] = {}
    for entry in entries:
        members.setdefault(entry.file, []).append(entry)
    return [(topic_of(file), members[file]) for file in sorted(members)]


def _explain_inputs(registry: Any, entry: Entry) -> None:
    """Shape, meaning and producer of each input."""
    if not entry.inputs:
        return
    echo("inputs:")
    table = registry.inputs if isinstance(registry.inputs, Mapping) else {}
    names = max(len(name) for name in entry.inputs)
    shapes = max((len(table[name].shape) for name in entry.inputs if name in table), default=0)
    for name in entry.inputs:
        row = table.get(name)
        shape = row.shape if row else ""
        text = f"{row.meaning} (from: {row.producer})" if row else ""
        head = f"  {name:<{names}}  {shape:<{shapes}}  "
        rest = " " * len(head)
        lines = textwrap.wrap(text, pages.width(), initial_indent=head, subsequent_indent=rest)
        echo("\n".join(lines) or head.rstrip())


def _explain_section(name: str) -> int:
    sections = _sections()
    by_class = {section.__name__: section for section in sections.values()}
    section = sections.get(name) or by_class.get(name)
    if section is None:
        names = [*sections, *by_class]
        raise ConfigError(f"unknown section {name!r}: {nearest(name, names)}")
    doc = inspect.cleandoc(section.__doc__ or "").partition("\nAttributes:")[0]
    doc = pages.reflowed(doc.strip(), pages.width())
    echo(f"settings {section.__name__}\n\n{doc}\n")
    lines = [line for line in section_settings(section) if line.key not in ("settings", "base")]
    echo(pages.settings_table(lines))
    return 0


def _sections() -> dict[str, Any]:
    """The sections of recipes by the word a recipe uses, such as lora, and the recipe itself."""
    words = {
        "adapter": "AdapterConfig",
        "credit": "CreditConfig",
        "data": "DataConfig",
        "endpoint": "EndpointConfig",
        "engine": "ServedConfig",
        "evaluation": "EvaluationConfig",
        "launch": "ClusterConfig",
        "lora": "LoraConfig",
        "model": "ModelConfig",
        "overlap": "OverlapConfig",
        "sampling": "SamplingConfig",
        "trust_region": "TrustRegionConfig",
    }
    return {**{word: keys.CLASSES[name] for word, name in words.items()}, "recipe": Recipe}


def _registry(kind: str, plugins: list[str]) -> Any:
    load_plugins(plugins, Path())
    singular = {r.kind.split()[0]: name for name, r in REGISTRIES.items()} | {"search": "searches"}
    name = singular.get(kind, kind)
    if name not in REGISTRIES:
        raise ConfigError(f"unknown kind {kind!r}: {nearest(kind, [*REGISTRIES, SETTINGS])}")
    return REGISTRIES[name]
