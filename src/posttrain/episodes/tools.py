"""Tools: Python functions that a model may call.

The schema that the model sees is made from type hints and docstring. What a call gets wrong goes
back to the model as the tool's message, so that it can do better.
"""

from __future__ import annotations

import functools
import inspect
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.component import name_of
from posttrain.episodes.worker import Called, Worker
from posttrain.errors import ConfigError, nearest, shown
from posttrain.rewards.values import described
from posttrain.types import ToolCall


@dataclass(frozen=True, slots=True)
class Tool:
    """A function with the schema that the model sees.

    Attributes:
        schema: {"type": "function", "function": {"name", "description", "parameters"}}.
        function: called with the arguments by name; may be a coroutine function.
    """

    schema: Mapping[str, Any]
    function: Callable[..., Any]

    @property
    def name(self) -> str:
        """The name by which the model calls it."""
        return str(self.schema["function"]["name"])

    @property
    def parameters(self) -> Mapping[str, Any]:
        """JSON schema of the arguments."""
        schema: Mapping[str, Any] = self.schema["function"].get("parameters") or {}
        return schema

    @classmethod
    def of(cls, function: Callable[..., Any] | Tool) -> Tool:
        """A tool from a function with a type hint for each parameter, and a docstring that
        describes the function and, under "Args:", each parameter.

        Raises:
            ConfigError: says what is missing.
        """
        if isinstance(function, Tool):
            return function
        from transformers.utils import get_json_schema

        name = name_of(function)
        if not name.isidentifier():
            raise ConfigError(f"a tool has the name {name!r}; give a function that has one (def)")
        if takes_any := [p.name for p in _parameters(function) if p.kind in _OPEN_KINDS]:
            raise ConfigError(
                f"tool {name!r} takes {takes_any[0]!r} without a name; give each parameter a name, "
                "by which the model calls it"
            )
        try:
            return cls(get_json_schema(function), function)
        except Exception as error:  # of its own kinds, and NameError for a hint that is not defined
            raise ConfigError(
                f"tool {name!r}: {described(error)}. A tool needs a type hint for each parameter "
                "(str, int, float, bool, list, dict, Literal), and a docstring with a section "
                '"Args:" that describes each one'
            ) from error

    @classmethod
    def of_schema(
        cls,
        name: str,
        description: str,
        parameters: Mapping[str, Any],
        function: Callable[..., Any],
    ) -> Tool:
        """A tool whose arguments are described by a JSON schema, such as that of a server."""
        schema = {"name": name, "description": description, "parameters": dict(parameters)}
        return cls({"type": "function", "function": schema}, function)


_OPEN_KINDS = (
    inspect.Parameter.VAR_POSITIONAL,
    inspect.Parameter.VAR_KEYWORD,
    inspect.Parameter.POSITIONAL_ONLY,
)


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    return list(inspect.signature(function).parameters.values())


def tools_by_name(functions: Iterable[Callable[..., Any] | Tool]) -> dict[str, Tool]:
    """Tools by their names.

    Raises:
        ConfigError: two have one name, or a function is no tool.
    """
    tools: dict[str, Tool] = {}
    for function in functions:
        tool = Tool.of(function)
        if tool.name in tools:
            raise ConfigError(f"tools: there are two with the name {tool.name!r}; rename one")
        tools[tool.name] = tool
    return tools


async def call_tool(
    tools: Mapping[str, Tool], call: ToolCall, worker: Worker, *, timeout_seconds: float = 0.0
) -> str:
    """Do a call, and give the text of the tool's message: its result, or its error.

    `call` gets result or error, and how long it took. Nothing is raised: an unknown tool, wrong
    arguments, an exception and a deadline are errors of the call.
    """
    tool = tools.get(call.name)
    if tool is None:
        call.error = f"there is no tool {call.name!r}: {nearest(call.name, tools)}"
        return _message(call)
    arguments, problem = checked_arguments(tool.parameters, call.arguments)
    if problem:
        call.error = problem
        return _message(call)
    bound = functools.partial(tool.function, **arguments)
    called = await worker.call(bound, seconds=timeout_seconds)
    call.seconds = called.seconds
    if called.timed_out:
        call.error = f"the tool took longer than {timeout_seconds:g} s"
    elif called.error is not None:
        call.error = described(called.error)
    else:
        _set_result(call, called)
    return _message(call)


def _set_result(call: ToolCall, called: Called) -> None:
    try:
        call.result = result_text(called.value)
    except Exception as error:  # a __str__ of the user's
        call.error = f"the result has no text: {described(error)}"


def _message(call: ToolCall) -> str:
    return f"Error: {call.error}" if call.error is not None else call.result or ""


def result_text(value: Any) -> str:
    """A tool's result as text: text as it is, None as none, lists and dicts as JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, dict | list | tuple):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


# ---- arguments


def checked_arguments(
    schema: Mapping[str, Any], arguments: Mapping[str, Any]
) -> tuple[dict[str, Any], str | None]:
    """Arguments as the tool takes them, and what is wrong with them (None: nothing).

    Whole numbers that are written 3.0 become integers where the schema asks for these.
    """
    properties = schema.get("properties") or {}
    for name in schema.get("required") or ():
        if name not in arguments:
            return {}, f"the argument {name!r} is missing"
    checked: dict[str, Any] = {}
    for name, value in arguments.items():
        if name not in properties:
            if schema.get("additionalProperties", not properties and "properties" not in schema):
                checked[name] = value
                continue
            return {}, f"there is no argument {name!r}: {nearest(name, properties)}"
        try:
            checked[name] = _checked(properties[name], value, name)
        except _WrongValue as error:
            return {}, str(error)
    return checked, None


class _WrongValue(Exception):
    """A value does not match its schema."""


def _is_whole(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, int) or (math.isfinite(value) and value.is_integer())


_TYPES: dict[str, Callable[[Any], bool]] = {
    "string": lambda v: isinstance(v, str),
    "integer": _is_whole,
    "number": lambda v: isinstance(v, int | float) and not isinstance(v, bool),
    "boolean": lambda v: isinstance(v, bool),
    "array": lambda v: isinstance(v, list),
    "object": lambda v: isinstance(v, dict),
    "null": lambda v: v is None,
}


def _checked(schema: Mapping[str, Any], value: Any, place: str) -> Any:
    """The value of an argument, or of a part of one, as its schema has it."""
    if value is None and schema.get("nullable"):
        return None
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return _one_of(choices, value, place)
    declared = schema.get("type")
    names: Sequence[str] = [declared] if isinstance(declared, str) else declared or ()
    types = [name for name in names if name in _TYPES]
    if types and not any(_TYPES[name](value) for name in types):
        raise _WrongValue(f"{place} is {shown(value)}; it must be of type {' or '.join(types)}")
    if "integer" in types and isinstance(value, float) and "number" not in types:
        value = int(value)
    if "enum" in schema and value not in schema["enum"]:
        listed = ", ".join(json.dumps(v, ensure_ascii=False) for v in schema["enum"])
        raise _WrongValue(f"{place} is {shown(value)}; it must be one of {listed}")
    if isinstance(value, list):
        return _checked_items(schema, value, place)
    if isinstance(value, dict):
        return _checked_fields(schema, value, place)
    return value


def _one_of(choices: Sequence[Mapping[str, Any]], value: Any, place: str) -> Any:
    problems = []
    for choice in choices:
        try:
            return _checked(choice, value, place)
        except _WrongValue as error:
            problems.append(str(error))
    raise _WrongValue("; or ".join(problems))


def _checked_items(schema: Mapping[str, Any], value: list[Any], place: str) -> list[Any]:
    if "prefixItems" in schema:
        parts = schema["prefixItems"]
        if len(value) != len(parts):
            raise _WrongValue(f"{place} has {len(value)} items; it must have {len(parts)}")
        return [
            _checked(part, item, f"{place}[{i}]")
            for i, (part, item) in enumerate(zip(parts, value, strict=True))
        ]
    items = schema.get("items")
    if not isinstance(items, Mapping):
        return value
    return [_checked(items, item, f"{place}[{i}]") for i, item in enumerate(value)]


def _checked_fields(schema: Mapping[str, Any], value: dict[str, Any], place: str) -> dict[str, Any]:
    properties = schema.get("properties") or {}
    missing = [name for name in schema.get("required") or () if name not in value]
    if missing:
        raise _WrongValue(f"{place} has no {missing[0]!r}")
    other: Any = schema.get("additionalProperties")
    checked: dict[str, Any] = {}
    for name, item in value.items():
        inner = properties.get(name, other)
        is_schema = isinstance(inner, Mapping)
        checked[name] = _checked(inner, item, f"{place}.{name}") if is_schema else item
    return checked
