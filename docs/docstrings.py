"""Docstrings as Markdown: prose, settings with type and default, errors.

The house's docstrings are plain text. Indented lines are literal, the sections `Args:`,
`Attributes:`, `Returns:` and `Raises:` have one entry per name, and a setting may also be explained
in a paragraph as "name: meaning".
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain import face
from posttrain.descriptions import descriptions

REQUIRED = inspect.Parameter.empty
_SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Yields):\s*$", re.MULTILINE)
_ARXIV = re.compile(r"arXiv\s+(\d{4}\.\d{4,5})")
_SPECIAL = re.compile(r"([\\*_{}\[\]<>#|~$^!])")


@dataclass(frozen=True)
class Field:
    """A parameter or attribute: its annotation as written, its default, its meaning."""

    name: str
    annotation: str
    default: Any
    meaning: str


def escape(text: str) -> str:
    """Plain text as Markdown: only code in backticks and arXiv numbers are marked up.

    >>> escape("a_t [M], see `x_y`")
    'a\\\\_t \\\\[M\\\\], see `x_y`'
    """
    parts = re.split(r"(`[^`]+`)", text)
    for index in range(0, len(parts), 2):
        plain = _SPECIAL.sub(r"\\\1", parts[index])
        parts[index] = _ARXIV.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", plain)
    return "".join(parts)


def sections(doc: str) -> dict[str, str]:
    """The text before the first section under "", and each section by its title."""
    text = inspect.cleandoc(doc)
    parts = _SECTION.split(text)
    found = {"": parts[0].strip("\n")}
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        found[title] = inspect.cleandoc(body.strip("\n"))
    return found


def prose(text: str, explained: Collection[str] = ()) -> str:
    """Paragraphs of a docstring; indented lines become literal blocks.

    Args:
        explained: settings that are listed elsewhere: their "name: meaning" is left out.
    """
    blocks: list[tuple[bool, list[str]]] = []
    for line in text.splitlines():
        literal = line.startswith(" ")
        if not line.strip():
            blocks.append((False, []))
        elif blocks and blocks[-1][0] == literal and blocks[-1][1]:
            blocks[-1][1].append(line)
        else:
            blocks.append((literal, [line]))
    written = []
    for literal, lines in blocks:
        if literal:
            body = inspect.cleandoc("\n" + "\n".join(lines))
            written.append(f"```text\n{body}\n```")
            continue
        paragraph = _without_entries(" ".join(line.strip() for line in lines), explained)
        if paragraph:
            written.append(_safe_start(escape(paragraph)))
    return "\n\n".join(written)


def _safe_start(paragraph: str) -> str:
    """A paragraph that begins like a list or a heading stays a paragraph."""
    paragraph = re.sub(r"^([-+=:])", r"\\\1", paragraph)
    return re.sub(r"^(\d+)([.)])", r"\1\\\2", paragraph)


def _without_entries(paragraph: str, names: Collection[str]) -> str:
    if not names:
        return paragraph
    one = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    entry = re.search(rf"(?:^|(?<=[.;)]\s))(?:{one})(?:\s*,\s*\w+)*:\s", paragraph)
    return paragraph[: entry.start()].strip() if entry else paragraph


def fields_text(fields: Iterable[Field]) -> str:
    """A definition list: name, type and default, then the meaning.

    Where no meaning is written, the prose above explains the settings by a formula; they are then
    one line of names, types and defaults.
    """
    listed = list(fields)
    lines, plain = [], []
    for field in listed:
        head = f"`{field.name}`"
        if field.annotation:
            head += f" · `{field.annotation}`"
        head += " · required" if field.default is REQUIRED else f" · `{value_text(field.default)}`"
        if not field.meaning:
            plain.append(head)
            continue
        meaning = escape(field.meaning[:1].upper() + field.meaning[1:])
        lines.append(f"{head}\n: {meaning}{'' if meaning.endswith('.') else '.'}\n")
    others = "Other settings" if lines else "Settings"
    if plain:
        lines.append(f"{others}: {'; '.join(plain)}.")
    return "\n".join(lines)


def errors_text(body: str) -> str:
    """The section `Raises:` as a list."""
    entries = re.split(r"(?m)^(?=\S)", body)
    items = [" ".join(entry.split()) for entry in entries if entry.strip()]
    return "\n".join(f"- {escape(item)}" for item in items)


def rest_text(found: dict[str, str]) -> str:
    """The sections after the parameters."""
    parts = []
    for title in ("Returns", "Yields"):
        if title in found:
            parts.append(f"**{title}** {escape(' '.join(found[title].split()))}")
    if "Raises" in found:
        parts.append(f"**Raises**\n\n{errors_text(found['Raises'])}")
    return "\n\n".join(parts)


def value_text(value: Any) -> str:
    """A default as it is written in Python; a dataclass by what differs from its defaults."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        own = []
        for f in dataclasses.fields(value):
            given = getattr(value, f.name)
            if f.default_factory is not dataclasses.MISSING:
                usual = f.default_factory()
            else:
                usual = f.default
            if given != usual:
                own.append(f"{f.name}={value_text(given)}")
        return f"{public_name(type(value))}({', '.join(own)})"
    if callable(value) and hasattr(value, "__name__"):
        return value.__name__
    return repr(value)


def public_name(cls: type) -> str:
    """The name of a class as `import posttrain as pt` has it."""
    place = f"{cls.__module__}.{cls.__name__}"
    for name, where in face.NAMES.items():
        if where == place or f"{where}.{name}" == place:
            return f"pt.{name}"
        target = where.rpartition(".")[2]
        if target == cls.__name__:
            return f"pt.{name}"
    return cls.__name__


def with_public_names(page: str) -> str:
    """A page whose code names classes as `import posttrain as pt` has them."""
    names = {
        where.rpartition(".")[2]: f"pt.{name}"
        for name, where in face.NAMES.items()
        if where.rpartition(".")[2].endswith("Config")
    }
    one = re.compile(r"\b(" + "|".join(names) + r")\b")
    return re.sub(r"`[^`\n]+`", lambda code: one.sub(lambda m: names[m[1]], code[0]), page)


def function_fields(function: Any) -> list[Field]:
    """The parameters of a function, or of a class's constructor."""
    signature = inspect.signature(function)
    parameters = [p for p in signature.parameters.values() if p.name not in ("self", "cls")]
    meanings = descriptions(function.__doc__ or "", [p.name for p in parameters])
    fields = []
    for p in parameters:
        stars = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "")
        default = () if p.kind is p.VAR_POSITIONAL else {} if stars else p.default
        annotation = "" if p.annotation is p.empty else annotation_text(p.annotation)
        fields.append(Field(stars + p.name, annotation, default, meanings.get(p.name, "")))
    return fields


def annotation_text(annotation: Any) -> str:
    """An annotation as written."""
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return text.replace("|", "or").replace(" or ", " | ")


def class_fields(cls: Any) -> list[Field]:
    """The fields of a dataclass."""
    fields = [f for f in dataclasses.fields(cls) if not f.name.startswith("_")]
    meanings = descriptions(cls.__doc__ or "", [f.name for f in fields])
    listed = []
    for f in fields:
        default = REQUIRED if f.default is dataclasses.MISSING else f.default
        if f.default_factory is not dataclasses.MISSING:
            default = f.default_factory()
        listed.append(Field(f.name, annotation_text(f.type), default, meanings.get(f.name, "")))
    return listed


def call_text(name: str, fields: Sequence[Field], keyword_only: Collection[str] = ()) -> str:
    """A call with its defaults, wrapped: what a reader copies."""
    parts = []
    for field in fields:
        if field.name in keyword_only and "*" not in parts:
            parts.append("*")
        plain = field.default is REQUIRED or field.name.startswith("*")
        parts.append(field.name if plain else f"{field.name}={value_text(field.default)}")
    line = f"{name}({', '.join(parts)})"
    if len(line) <= 76:
        return f"```python\n{line}\n```"
    lines, current = [f"{name}("], "   "
    for part in parts:
        if len(current) + len(part) + 2 > 76 and current.strip():
            lines.append(current)
            current = "   "
        current += f" {part},"
    return "```python\n" + "\n".join([*lines, current, ")"]) + "\n```"
