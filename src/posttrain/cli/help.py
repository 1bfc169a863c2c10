"""The pages of `--help`: all commands by purpose, and all settings of a method by group."""

from __future__ import annotations

import dataclasses
import re
import shutil
import textwrap
from collections.abc import Sequence
from typing import Any

from posttrain.cli.settings import SettingLine, settings_of
from posttrain.descriptions import first_sentence
from posttrain.main_loss import main_loss
from posttrain.registry import REQUIRED, Entry

_FULL_LINE = 90
"""Columns from which a line of a docstring was broken because it was full."""

GROUPS = (
    "recipes",
    "learn from examples",
    "learn from preferences",
    "learn from rewards",
    "make data",
    "evaluate",
    "use a model",
    "look up",
)

_INTRODUCTION = """\
usage: posttrain COMMAND ...      posttrain COMMAND --help

From base model to reasoner: fine-tuning, reinforcement learning and test-time
scaling.
"""

_EXAMPLES = """\
examples:
  posttrain run recipes/quickstart.yaml
  posttrain sft --model embedded --data rows.jsonl learning_rate=1e-5
  posttrain check grpo --model embedded --task arithmetic
  posttrain eval --model runs/sft --task arithmetic
  posttrain explain losses clipped

--version shows the version, --traceback the whole traceback of an error.
"""


def width() -> int:
    """Columns of the terminal that help uses."""
    return max(60, min(shutil.get_terminal_size((80, 24)).columns, 100))


def overview(commands: Sequence[tuple[str, str, str]]) -> str:
    """The page of `posttrain --help`. commands: (group, name, summary) of each."""
    column = max(len(name) for _, name, _ in commands) + 4
    lines = [_INTRODUCTION]
    for group in GROUPS:
        members = [(name, text) for g, name, text in commands if g == group]
        if not members:
            continue
        lines.append(f"{group}:")
        for name, text in members:
            rows = described(text, width() - column)
            lines += [f"  {name:<{column - 2}}{rows[0]}", *(" " * column + row for row in rows[1:])]
        lines.append("")
    return "\n".join(lines) + "\n" + _EXAMPLES


def summary(doc: str) -> str:
    """A docstring's first sentence without remarks in parentheses; those of a formula stay.

    >>> summary("Centred (arXiv 1): A_i = (r_i - mean(r)) / (std(r) + eps). More.")
    'Centred: A_i = (r_i - mean(r)) / (std(r) + eps)'
    """
    text = first_sentence(" ".join(doc.strip().split("\n\n")[0].split()))
    words, sign, formula = text.partition(" = ")
    return re.sub(r"\s+\([^()]*\)", "", words) + sign + formula


def described(text: str, limit: int) -> list[str]:
    """Text in lines of at most `limit` characters: its first clause alone if that fits on one
    line, else all of it.
    """
    if len(text) <= limit:
        return [text]
    clause = re.split(r"[:;]\s|,\s(?=and|which|as)", text)[0]
    return [clause] if len(clause) <= limit else textwrap.wrap(text, limit)


def reflowed(doc: str, limit: int) -> str:
    """A docstring in lines of at most `limit` characters. A line break stays where the next word
    would have fitted: formulas and tables keep their lines.

    >>> print(reflowed("One line that is rather long\\n\\n  l = -log p", 20))
    One line that is
    rather long
    <BLANKLINE>
      l = -log p
    """
    joined: list[tuple[str, int]] = []  # lines, and the indent of their later rows
    last = ""
    for line in doc.split("\n"):
        words = line.split()
        full = words and last.strip() and len(last) + 1 + len(words[0]) > _FULL_LINE
        text, hang = joined[-1] if joined else ("", 0)
        if full and (_indent(line) == hang or _indent(line) > hang > 0):
            joined[-1] = f"{text} {line.strip()}", max(hang, _indent(line))
        else:
            joined.append((line, _indent(line)))
        last = line
    rows: list[str] = []
    for line, hang in joined:
        long = len(line) > limit
        rows += textwrap.wrap(line, limit, subsequent_indent=" " * hang) if long else [line]
    return "\n".join(rows)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def method_page(entry: Entry, usage: str, flags: Sequence[tuple[str, str]]) -> str:
    """The page of `posttrain METHOD --help`.

    Args:
        usage: the arguments on the usage line. flags: (flag, meaning) of each.
    """
    text = [f"usage: posttrain {entry.name} {usage}", ""]
    text += textwrap.wrap(f"{summary(entry.doc)}.", width())
    text += ["", "flags:"]
    for flag, meaning in flags:
        text += _entry(flag, meaning)
    text += ["", "settings, as key=value behind the command or key: value in a recipe:"]
    for group, lines in settings_of(entry).items():
        text += ["", *_heading(group, entry)]
        for line in lines:
            text += _entry(_key_and_default(line), _type_and_meaning(line))
    text += ["", f"`posttrain explain methods {entry.name}` shows the algorithms and variants;"]
    text += [f"`posttrain init {entry.name}` writes a recipe with all of this in it."]
    return "\n".join(text) + "\n"


def settings_table(lines: Sequence[SettingLine]) -> str:
    """Settings one under another, with type, default and meaning."""
    return "\n".join(
        row for line in lines for row in _entry(_key_and_default(line), _type_and_meaning(line))
    )


def default_text(value: Any) -> str:
    """A default as it is written in a recipe, on one line."""
    if value is REQUIRED:
        return "..."
    if value is None:
        return "null"
    if dataclasses.is_dataclass(value):
        return "{}"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict) and "name" in value:
        return default_text(value["name"])
    if isinstance(value, list | tuple):
        return "[" + ", ".join(default_text(item) for item in value) + "]"
    if isinstance(value, str):
        return value if value.strip() and "\n" not in value else repr(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _heading(group: str, entry: Entry) -> list[str]:
    if group == "method":
        return [f"{entry.name}:"]
    loss = main_loss({}, entry)
    if group == "loss" and loss:
        return textwrap.wrap(
            f"loss (with the settings of the main loss, by default {loss!r}):", width()
        )
    return [f"{group}:"]


def _key_and_default(line: SettingLine) -> str:
    default = default_text(line.default)
    if len(default) > 40:
        default = f"{default[:37]}..."
    return f"{line.key}={default}"


def _type_and_meaning(line: SettingLine) -> str:
    meaning = first_sentence(line.meaning)
    required = ", required" if line.default is REQUIRED else ""
    kind = f"({line.type}{required})"
    return f"{meaning} {kind}" if meaning else kind


def _entry(head: str, text: str, column: int = 32) -> list[str]:
    """Two columns: the text begins on the next line if the head is too long."""
    rows = textwrap.wrap(text, max(width() - column, 24)) or [""]
    if len(head) + 4 > column:
        return [f"  {head}", *(" " * column + row for row in rows)]
    first, *others = rows
    return [f"  {head:<{column - 2}}{first}".rstrip(), *(" " * column + row for row in others)]
