"""Check plain values (from YAML, the command line or a call) against types.

Types are those of `typing`: int, float, bool, str, Any, None, Literal[...], X | Y, list[X],
tuple[X, ...], tuple[X, Y], dict[str, X], dataclasses, and aliases of these. A value of any other
class must be an object of that class.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import numbers
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from posttrain.annotations import Opaque, spelled
from posttrain.errors import ConfigError, nearest, shown

Class = TypeVar("Class")

_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    None: "nothing",
    type(None): "nothing",
}
_SECTIONS = (
    "posttrain.cluster_config",
    "posttrain.config",
    "posttrain.engine_config",
    "posttrain.model_config",
    "posttrain.overlap_config",
)
_PLAIN = (str, bool, int, float, list, tuple, dict, type(None))


def check(value: Any, hint: Any, where: str) -> Any:
    """The value, converted where that loses nothing.

    1 becomes 1.0, "1e-5" becomes 1e-5, a list a tuple, a mapping a dataclass.

    Args:
        value: what the user wrote. hint: the type. where: the dotted place, for messages.
    Raises:
        ConfigError: names the place, the value and the expected type.
    """
    if isinstance(hint, str):
        raise TypeError(f"{where}: a type is expected, and not its text {hint!r}")
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return check(value, arguments[0], where)
    if origin is typing.Literal:
        return _check_choice(value, arguments, where)
    if origin in (typing.Union, types.UnionType):
        return _check_union(value, hint, where)
    if origin in (list, tuple, dict):
        return _check_container(value, hint, where)
    if hint is Any:
        if isinstance(value, int | float) and _not_finite(value):
            raise _fail(value, hint, where)
        return value
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return build(hint, value, where)
    accepted, converted = _as_scalar(value, hint)
    if not accepted:
        raise _fail(value, hint, where)
    return converted


def check_in_python(value: Any, hint: Any, where: str) -> Any:
    """As `check`, of a value that a script gives: text is not read as a number.

    Raises:
        ConfigError: as `check`.
    """
    converted = check(value, hint, where)
    if isinstance(value, str) and isinstance(converted, float):
        raise _fail(value, hint, where)
    return converted


def is_plain(hint: Any) -> bool:
    """Whether a type is one of numbers, texts, choices, lists of these, or a section of settings
    that has no short form.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in _WORDS or origin is typing.Literal:
        return True
    if origin in (typing.Union, types.UnionType, list, tuple):
        return all(is_plain(part) for part in arguments if part is not Ellipsis)
    section = dataclasses.is_dataclass(hint) and isinstance(hint, type)
    return section and hint.__module__ in _SECTIONS and not hasattr(hint, "from_short")


def described(name: str) -> Callable[[type[Class]], type[Class]]:
    """Decorator of a dataclass of settings: its fields are checked when one is made, and its
    `repr` is its public name with the fields that differ from their defaults.

    >>> @described("Point")
    ... @dataclasses.dataclass
    ... class PointConfig:
    ...     x: int = 0
    ...     y: int = 0
    >>> PointConfig(y=2)
    Point(y=2)
    """

    def decorate(cls: type[Class]) -> type[Class]:
        section: Any = cls
        make = section.__init__

        @functools.wraps(make)
        def init(self: Any, *values: Any, **named: Any) -> None:
            names = [f.name for f in dataclasses.fields(section)]
            for key in named:
                if key not in names:
                    raise ConfigError(f"{name} has no field {key!r}: {nearest(key, names)}")
            hints = _hints(section)

            def checked(key: str, value: Any) -> Any:
                plain = is_plain(hints[key])
                return check_in_python(value, hints[key], f"{name}.{key}") if plain else value

            first = [checked(key, value) for key, value in zip(names, values)]
            rest = {key: checked(key, value) for key, value in named.items()}
            make(self, *first, *values[len(names) :], **rest)

        def shown_fields(self: Any) -> str:
            parts = []
            for f in dataclasses.fields(self):
                value = getattr(self, f.name)
                default = f.default_factory() if callable(f.default_factory) else f.default
                if f.repr and value != default:
                    parts.append(f"{f.name}={value!r}")
            return f"{name}({', '.join(parts)})"

        section.__init__, section.__repr__ = init, shown_fields
        return cls

    return decorate


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def describe(hint: Any) -> str:
    """A type in words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in _WORDS:
        return _WORDS[hint]
    if origin is typing.Literal:
        return "one of " + ", ".join(map(repr, arguments))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(describe, arguments))
    if origin is dict:
        return f"a mapping to {describe(arguments[1])}"
    if origin in (list, tuple):
        return f"a list of {describe(arguments[0])}"
    if dataclasses.is_dataclass(hint):
        return f"a mapping with the keys of {spelled(hint)}"
    return f"an object of type {spelled(hint)}"


def _fail(value: Any, hint: Any, where: str) -> ConfigError:
    if _not_finite(value):
        return ConfigError(
            f"{where}: {shown(value)} is not finite; settings are finite numbers of at most 1.8e308"
        )
    return ConfigError(f"{where}: {shown(value)} is {_kind(value)}, but {describe(hint)} is wanted")


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
    """What a value is, in words of YAML."""
    names = {
        str: "text",
        bool: "true/false",
        int: "a whole number",
        float: "a number",
        list: "a list",
        dict: "a mapping",
    }
    return "empty" if value is None else names.get(type(value), type(value).__name__)


def _as_scalar(value: Any, hint: Any) -> tuple[bool, Any]:
    """Whether a value is of a type without parts, and the value as that type."""
    if hint is None or hint is type(None):
        return value is None, None
    if hint is int:
        return _as_int(value)
    if hint is float:
        return _as_float(value)
    if isinstance(hint, type) and issubclass(hint, Opaque):
        # Only the function's own module knows the class; what is plain is surely none of it.
        return not isinstance(value, _PLAIN), value
    return not isinstance(hint, type) or isinstance(value, hint), value


def _as_int(value: Any) -> tuple[bool, Any]:
    """Whether a value is a whole number, and the value as int."""
    if isinstance(value, bool):
        return False, None
    if isinstance(value, float) and value.is_integer():
        return True, int(value)
    if isinstance(value, numbers.Integral) and not isinstance(value, int):  # of NumPy
        return True, int(value)
    return isinstance(value, int) and not _not_finite(value), value


def _as_float(value: Any) -> tuple[bool, Any]:
    """Whether a value is a finite number, and the value as float."""
    if isinstance(value, bool) or _not_finite(value):
        return False, None
    # YAML 1.1 reads 1e-5 (no dot) as text, and everybody writes learning rates so.
    if isinstance(value, str):
        try:
            return True, float(value)
        except ValueError:
            return False, None
    if isinstance(value, numbers.Real) and not isinstance(value, int | float):  # of NumPy
        return math.isfinite(value), float(value)
    return isinstance(value, int | float), float(value) if isinstance(value, int) else value


def _check_choice(value: Any, options: tuple[Any, ...], where: str) -> Any:
    if any(value == option and type(value) is type(option) for option in options):
        return value
    hint = nearest(value, map(str, options)) if isinstance(value, str) else f"Known: {options}"
    raise ConfigError(f"{where}: {shown(value)} is not a choice; {hint}")


def _check_union(value: Any, hint: Any, where: str) -> Any:
    """The value as the first of the types that it fits."""
    options = typing.get_args(hint)
    if value is None and type(None) in options:
        return None
    options = tuple(option for option in options if option is not type(None))
    if isinstance(value, Mapping):
        # The message of the one option that takes mappings is the useful one.
        takers = [
            o for o in options if dataclasses.is_dataclass(o) or (typing.get_origin(o) or o) is dict
        ]
        if len(takers) == 1:
            return check(value, takers[0], where)
    for option in options:
        try:
            return check(value, option, where)
        except ConfigError:
            if len(options) == 1:
                raise
    raise _fail(value, hint, where)


def _check_container(value: Any, hint: Any, where: str) -> Any:
    """A dict, list or tuple whose values are checked one by one."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise _fail(value, hint, where)
        return {str(k): check(v, arguments[1], f"{where}.{k}") for k, v in value.items()}
    if not isinstance(value, list | tuple):
        raise _fail(value, hint, where)
    if origin is tuple and Ellipsis not in arguments:
        if len(value) != len(arguments):
            raise ConfigError(f"{where}: {shown(value)} must have {len(arguments)} values")
        return tuple(check(v, arguments[i], f"{where}[{i}]") for i, v in enumerate(value))
    items = [check(v, arguments[0], f"{where}[{i}]") for i, v in enumerate(value)]
    return items if origin is list else tuple(items)


@functools.cache
def _fields(cls: type) -> dict[str, tuple[dataclasses.Field[Any], Any]]:
    """The fields that a recipe may set, each with its type."""
    hints = _hints(cls)
    return {
        f.name: (f, hints[f.name])
        for f in dataclasses.fields(cls)
        if f.init and f.metadata.get("recipe", True)
    }


def build(cls: type, value: Any, where: str) -> Any:
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
    prefix = f"{where}." if where else ""
    fields = _fields(cls)
    for key in value:
        if key not in fields:
            raise ConfigError(f"unknown key {prefix + str(key)!r}: {nearest(str(key), fields)}")
    values = {key: check(v, fields[key][1], prefix + key) for key, v in value.items()}
    for key, (field, _) in fields.items():
        optional = (
            field.default is not dataclasses.MISSING
            or field.default_factory is not dataclasses.MISSING
        )
        if not optional and key not in values:
            raise ConfigError(f"missing key {prefix + key!r}")
    return cls(**values)
