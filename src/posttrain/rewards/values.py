"""What a reward returned, read: numbers, None, lists for steps, and failures as recorded text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from itertools import islice
from typing import Any

from posttrain.errors import RewardError

Value = float | list[float] | str | None
"""A number, one number for each step, the text of a failure, or None (not applicable)."""

_MAX_TEXT = 300
_RULE = "return a list with one number (or None) for each completion, in their order"


def read_values(name: str, returned: Any, count: int) -> list[Value]:
    """One value for each of `count` completions.

    A number that is not finite, one that cannot be converted and an exception in place of a number
    are failures of their completion.

    Raises:
        RewardError: what was returned is no list, or has another length, or holds what is no
        number.
    """
    kind = type(returned).__name__
    if isinstance(returned, Mapping | Set):
        raise RewardError(
            f"reward {name!r} returned a {kind}, which gives no order of completions; {_RULE}"
        )
    if isinstance(returned, str | bytes | bytearray):
        raise RewardError(f"reward {name!r} returned {shown(returned)}, which is text; {_RULE}")
    if not hasattr(returned, "__iter__") or getattr(returned, "ndim", 1) == 0:
        raise RewardError(f"reward {name!r} returned {kind} for {count} completions; {_RULE}")
    values = list(islice(returned, count + 1))
    if len(values) != count:
        size = f"more than {count}" if len(values) > count else str(len(values))
        if isinstance(returned, Sequence):
            size = str(len(returned))
        raise RewardError(f"reward {name!r} returned {size} for {count} completions; {_RULE}")
    return [_value(name, value) for value in values]


def _value(name: str, value: Any) -> Value:
    if not isinstance(value, list | tuple):
        return _number(name, value)
    numbers: list[float] = []
    for place, step in enumerate(value):
        number = "returned None" if step is None else _number(name, step)
        if not isinstance(number, float):
            return f"step {place + 1}: {number}"
        numbers.append(number)
    return numbers


def _number(name: str, value: Any) -> float | str | None:
    if value is None:
        return None
    if isinstance(value, BaseException):
        return described(value)
    if getattr(value, "shape", None) == (1,):
        value = value.item()  # an array or tensor of one number
    kind = type(value)
    is_text = isinstance(value, str | bytes | bytearray)
    numeric = hasattr(kind, "__float__") or hasattr(kind, "__index__")
    many = getattr(value, "ndim", 0) > 0
    if is_text or not numeric or many:
        raise RewardError(
            f"reward {name!r} returned {shown(value)}, which is not a number; {_RULE}"
        )
    try:
        number = float(value)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return f"returned {shown(value)}, which is no finite number ({described(error)})"
    return number if math.isfinite(number) else f"returned {number}"


def described(error: BaseException) -> str:
    """An exception as one text, whatever its own methods do."""
    try:
        text = str(error)
    except Exception:
        text = "(its message cannot be shown)"
    return f"{type(error).__name__}: {text}"[:_MAX_TEXT]


def shown(value: Any) -> str:
    """A value in a message: short, whatever its own methods do."""
    try:
        text = repr(value)
    except Exception:  # also the limit of digits of int
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:80]}..."
