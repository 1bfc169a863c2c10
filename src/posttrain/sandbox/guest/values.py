"""Plain data as JSON: what passes between a program and the tests that judge it.

The side that judges reads nothing but built-in types, made by itself. So a class of the program
that is equal to everything, or shows itself as another value, never reaches a comparison.
"""

from __future__ import annotations

import base64
import builtins
import collections
import datetime
import decimal
import fractions
import json
import sys
from collections.abc import Callable
from typing import Any

MAX_BYTES = 4 << 20
"""Longest message between a program and its tests."""

_MAX_DEPTH = 60
_JSON_DIGITS = 4000  # longer integers would be refused by the reader's own limit


class NotPlain(ValueError):
    """A value that is no plain data."""


def encoded(value: Any, reference: Callable[[Any], int] | None = None) -> Any:
    """A value as JSON has it: {"t": type, "v": content} where JSON has no such type.

    Subclasses stand for their built-in base: a Counter for a dict, a named tuple for a tuple.

    Args:
        reference: gives the number of an object that is no plain data; None refuses such objects.
    Raises:
        NotPlain: an object that is no plain data, or data that is too deep.
    """
    return _encoded(value, reference, 0)


def _encoded(value: Any, reference: Callable[[Any], int] | None, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise NotPlain(f"the value is nested more than {_MAX_DEPTH} deep")
    if value is None or value is True or value is False:
        return value
    base: Any
    for base, content in _CONTENTS.items():
        if isinstance(value, base):
            if base in (list, tuple, set, frozenset, collections.deque):
                items = [_encoded(item, reference, depth + 1) for item in base.__iter__(value)]
                return items if base is list else {"t": base.__name__, "v": items}
            if base is dict:
                pairs = dict.items(value)
                v = [[_encoded(x, reference, depth + 1) for x in pair] for pair in pairs]
                return {"t": "dict", "v": v}
            return content(value)
    name = type.__dict__["__name__"].__get__(value) if isinstance(value, type) else ""
    if name and getattr(builtins, name, None) is value:
        return {"t": "type", "v": name}
    if reference is None:
        raise NotPlain(f"a value of type {type(value).__name__} is no plain data")
    return {"t": "reference", "v": reference(value)}


def _integer(value: int) -> Any:
    number = int.__index__(value)
    if number.bit_length() < 3 * _JSON_DIGITS:
        return number
    return {"t": "int", "v": hex(number)}


def _typed(name: str, content: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: {"t": name, "v": content(value)}


_CONTENTS: dict[Any, Callable[[Any], Any]] = {
    int: _integer,
    float: float.__float__,
    str: str.__str__,
    list: list,
    tuple: list,
    dict: list,
    set: list,
    frozenset: list,
    collections.deque: list,
    bytes: _typed("bytes", lambda v: base64.b85encode(bytes(v)).decode()),
    bytearray: _typed("bytearray", lambda v: base64.b85encode(bytes(v)).decode()),
    complex: _typed("complex", lambda v: [complex.__complex__(v).real, v.imag]),
    range: _typed("range", lambda v: [v.start, v.stop, v.step]),
    fractions.Fraction: _typed("Fraction", lambda v: [str(v.numerator), str(v.denominator)]),
    decimal.Decimal: _typed("Decimal", decimal.Decimal.__str__),
    datetime.datetime: _typed("datetime", datetime.datetime.isoformat),
    datetime.date: _typed("date", datetime.date.isoformat),
    datetime.time: _typed("time", datetime.time.isoformat),
    datetime.timedelta: _typed("timedelta", lambda v: [v.days, v.seconds, v.microseconds]),
}

_MADE: dict[str, Callable[[Any], Any]] = {
    "type": lambda v: _type(v),
    "int": lambda v: int(v, 16),
    "bytes": lambda v: base64.b85decode(v),
    "bytearray": lambda v: bytearray(base64.b85decode(v)),
    "complex": lambda v: complex(*v),
    "range": lambda v: range(*v),
    "Fraction": lambda v: fractions.Fraction(*map(int, v)),
    "Decimal": decimal.Decimal,
    "datetime": datetime.datetime.fromisoformat,
    "date": datetime.date.fromisoformat,
    "time": datetime.time.fromisoformat,
    "timedelta": lambda v: datetime.timedelta(*v),
}

_COLLECTIONS: dict[str, Callable[[Any], Any]] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "deque": collections.deque,
}


def decoded(value: Any, referred: Callable[[int], Any] | None = None) -> Any:
    """The value of what `encoded` gave.

    Args:
        referred: gives what stands for a reference; None refuses references.
    Raises:
        NotPlain: nothing that `encoded` gives.
    """
    try:
        return _decoded(value, referred)
    except NotPlain:
        raise
    except Exception as error:
        raise NotPlain(f"{type(error).__name__}: {error}") from error


def _decoded(value: Any, referred: Callable[[int], Any] | None) -> Any:
    if isinstance(value, list):
        return [_decoded(item, referred) for item in value]
    if not isinstance(value, dict):
        return value
    kind, content = value["t"], value["v"]
    if kind == "dict":
        return {_decoded(k, referred): _decoded(v, referred) for k, v in content}
    if kind in _COLLECTIONS:
        return _COLLECTIONS[kind](_decoded(item, referred) for item in content)
    if kind == "reference" and referred is not None and isinstance(content, int):
        return referred(content)
    return _MADE[kind](content)


def _type(name: str) -> type:
    built_in = getattr(builtins, name)
    if not isinstance(built_in, type):
        raise NotPlain(f"{name} is no type")
    return built_in


class Channel:
    """Messages over a connected socket. Each is JSON behind four bytes that hold its length."""

    def __init__(self, connection: Any, max_bytes: int = MAX_BYTES) -> None:
        self.connection = connection
        self.max_bytes = max_bytes

    def send(self, message: Any) -> None:
        """Send a message.

        Raises:
            NotPlain: it is longer than `max_bytes`.
        """
        data = json.dumps(message).encode()
        if len(data) > self.max_bytes:
            raise NotPlain(f"a value of {len(data)} bytes; at most {self.max_bytes} are sent")
        self.connection.sendall(len(data).to_bytes(4, sys.byteorder) + data)

    def receive(self) -> Any:
        """The next message.

        Raises:
            EOFError: the other side has ended, or sends more than `max_bytes`.
            NotPlain: the message is no JSON.
        """
        size = int.from_bytes(self._bytes(4), sys.byteorder)
        if size > self.max_bytes:
            raise EOFError(f"a message of {size} bytes; at most {self.max_bytes} are read")
        try:
            return json.loads(self._bytes(size))
        except (ValueError, RecursionError) as error:
            raise NotPlain(f"{type(error).__name__}: {error}") from error

    def _bytes(self, count: int) -> bytes:
        parts = []
        while count:
            part = self.connection.recv(min(count, 1 << 20))
            if not part:
                raise EOFError("the other side has ended")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)
