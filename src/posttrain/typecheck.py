"""Check plain values (from YAML or the command line) against type annotations given as text.

Annotations are read as text so that nothing has to be imported to check a recipe. Understood: int,
float, bool, str, Any, None, Literal[...], X | Y, list[X], tuple[X, ...], dict[str, X], and the
names of dataclasses given in `classes`.
"""

from __future__ import annotations

import ast
import dataclasses
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from posttrain.errors import ConfigError, nearest, shown

Classes = Mapping[str, type]


def check(value: Any, annotation: str, where: str, classes: Classes | None = None) -> Any:
    """The value, converted where that loses nothing (1 -> 1.0, "1e-5" -> 1e-5, list -> tuple,
    mapping -> dataclass).

    Args:
        value: what the user wrote. annotation: source text of the annotation. where: dotted place,
        for the message.
        classes: dataclasses that annotations may name; they are built from mappings, strictly.
    Raises:
        ConfigError: names place, value, and the type that is wanted.
    """
    return _check(value, _parse(annotation), where, classes or {})


@lru_cache(maxsize=1024)
def _parse(annotation: str) -> ast.expr:
    return ast.parse(annotation, mode="eval").body


def _fail(value: Any, node: ast.expr, where: str) -> ConfigError:
    if _not_finite(value):
        return ConfigError(
            f"{where}: {shown(value)} is not finite; settings are finite numbers of at most 1.8e308"
        )
    return ConfigError(f"{where}: {shown(value)} is {_kind(value)}, but {describe(node)} is wanted")


def _not_finite(value: Any) -> bool:
    """Whether a number, or text that is read as one, is NaN, infinite or too large for a float."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return False
    try:
        return not math.isfinite(float(value))
    except ValueError:
        return False
    except OverflowError:
        return True


def _kind(value: Any) -> str:
    names = {
        str: "text",
        bool: "true/false",
        int: "a whole number",
        float: "a number",
        list: "a list",
        dict: "a mapping",
    }
    return "empty" if value is None else names.get(type(value), type(value).__name__)


def describe(node: ast.expr | str) -> str:
    """An annotation in words."""
    if isinstance(node, str):
        node = _parse(node)
    words = {
        "int": "a whole number",
        "float": "a number",
        "bool": "true or false",
        "str": "text",
        "None": "nothing",
    }
    if isinstance(node, ast.BinOp):
        return f"{describe(node.left)} or {describe(node.right)}"
    if isinstance(node, ast.Subscript):
        head = ast.unparse(node.value)
        if head == "Literal":
            return "one of " + ", ".join(repr(v) for v in _literals(node))
        inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        if head == "dict":
            return f"a mapping to {describe(inner[-1])}"
        return f"a list of {describe(inner[0])}"
    text = ast.unparse(node)
    return words.get(
        text, f"a mapping with the keys of {text}" if text[:1].isupper() and text != "Any" else text
    )


def _literals(node: ast.Subscript) -> tuple[Any, ...]:
    elements = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    return tuple(ast.literal_eval(e) for e in elements)


def _check(value: Any, node: ast.expr, where: str, classes: Classes) -> Any:
    if isinstance(node, ast.BinOp):
        return _check_union(value, node, where, classes)
    if isinstance(node, ast.Subscript):
        return _check_container(value, node, where, classes)
    name = ast.unparse(node)
    if name == "Any":
        if isinstance(value, int | float) and _not_finite(value):
            raise _fail(value, node, where)
        return value
    if name in classes:
        return build(classes[name], value, where, classes)
    if name == "None":
        accepted, converted = value is None, None
    elif name == "bool":
        accepted, converted = isinstance(value, bool), value
    elif name == "int":
        accepted, converted = _as_int(value)
    elif name == "float":
        accepted, converted = _as_float(value)
    elif name == "str":
        accepted, converted = isinstance(value, str), value
    else:
        raise TypeError(f"{where}: annotation {name!r} is not one that settings can have")
    if not accepted:
        raise _fail(value, node, where)
    return converted


def _as_int(value: Any) -> tuple[bool, Any]:
    if isinstance(value, bool):
        return False, None
    if isinstance(value, float) and value.is_integer():
        return True, int(value)
    return isinstance(value, int) and not _not_finite(value), value


def _as_float(value: Any) -> tuple[bool, Any]:
    if _not_finite(value):
        return False, None
    # YAML 1.1 reads 1e-5 (no dot) as text, and everybody writes learning rates so.
    if isinstance(value, str):
        try:
            return True, float(value)
        except ValueError:
            return False, None
    return isinstance(value, int | float) and not isinstance(
        value, bool
    ), value if value is None else _float(value)


def _float(value: Any) -> Any:
    return float(value) if isinstance(value, int) else value


def _check_union(value: Any, node: ast.BinOp, where: str, classes: Classes) -> Any:
    options: list[ast.expr] = []
    stack: list[ast.expr] = [node]
    while stack:
        top = stack.pop()
        if isinstance(top, ast.BinOp):
            stack += [top.right, top.left]
        else:
            options.append(top)
    if value is None and any(ast.unparse(o) == "None" for o in options):
        return None
    options = [o for o in options if ast.unparse(o) != "None"]
    if isinstance(
        value, Mapping
    ):  # the message of the one option that takes mappings is the useful one
        takers = [
            o for o in options if ast.unparse(o) in classes or ast.unparse(o).startswith("dict")
        ]
        if len(takers) == 1:
            return _check(value, takers[0], where, classes)
    for option in options:
        try:
            return _check(value, option, where, classes)
        except ConfigError:
            if len(options) == 1:
                raise
    raise _fail(value, node, where)


def _check_container(value: Any, node: ast.Subscript, where: str, classes: Classes) -> Any:
    head = ast.unparse(node.value)
    if head == "Literal":
        options = _literals(node)
        if not any(value == o and type(value) is type(o) for o in options):
            hint = (
                nearest(value, [str(o) for o in options])
                if isinstance(value, str)
                else f"Known: {options}"
            )
            raise ConfigError(f"{where}: {shown(value)} is not a choice; {hint}")
        return value
    inner = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    if head == "dict":
        if not isinstance(value, Mapping):
            raise _fail(value, node, where)
        return {str(k): _check(v, inner[-1], f"{where}.{k}", classes) for k, v in value.items()}
    if head in ("list", "tuple"):
        if not isinstance(value, list | tuple):
            raise _fail(value, node, where)
        items = [_check(v, inner[0], f"{where}[{i}]", classes) for i, v in enumerate(value)]
        return items if head == "list" else tuple(items)
    raise TypeError(f"{where}: annotation {ast.unparse(node)!r} is not one that settings can have")


def build(cls: type, value: Any, where: str, classes: Classes) -> Any:
    """A dataclass from a mapping: unknown keys, missing keys and wrong types are errors.

    A class may offer `from_short(text)` for a one-word form, such as `model: path`.
    """
    if isinstance(value, cls):
        return value
    short = getattr(cls, "from_short", None)
    if isinstance(value, str) and short is not None:
        value = short(value)
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: {shown(value)} is {_kind(value)}, but a mapping is wanted")
    fields = {
        f.name: f for f in dataclasses.fields(cls) if f.init and f.metadata.get("recipe", True)
    }
    for key in value:
        if key not in fields:
            place = f"{where}.{key}" if where else str(key)
            raise ConfigError(f"unknown key {place!r}: {nearest(str(key), fields)}")
    kwargs = {
        k: _check(v, _parse(str(fields[k].type)), f"{where}.{k}" if where else k, classes)
        for k, v in value.items()
    }
    required = [
        k
        for k, f in fields.items()
        if f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
        and k not in kwargs
    ]
    if required:
        raise ConfigError(f"missing key {(where + '.' if where else '') + required[0]!r}")
    return cls(**kwargs)
