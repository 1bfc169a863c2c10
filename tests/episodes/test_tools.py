"""Tools: schemas from functions, arguments checked against them, calls whose errors are data."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Literal

import pytest

from posttrain.episodes.tools import Tool, call_tool, checked_arguments, result_text, tools_by_name
from posttrain.episodes.worker import Worker
from posttrain.errors import ConfigError
from posttrain.types import ToolCall


def add(a: int, b: int = 1) -> int:
    """Add two numbers.

    Args:
        a: the first.
        b: the second.
    """
    return a + b


def lookup(city: str, units: Literal["C", "F"] = "C", days: list[int] | None = None) -> dict:
    """Look up the weather.

    Args:
        city: where.
        units: of the temperature.
        days: which days.
    """
    return {"city": city, "units": units, "days": days}


class Counter:
    def __init__(self) -> None:
        self.count = 0

    def increase(self, by: int) -> str:
        """Increase the count.

        Args:
            by: how much.
        """
        self.count += by
        return f"now {self.count}"

    async def later(self, text: str) -> str:
        """Say something later.

        Args:
            text: what.
        """
        await asyncio.sleep(0)
        return text


def call(tools: dict[str, Tool], name: str, limit: float = 5.0, /, **arguments: Any) -> ToolCall:
    made = ToolCall(name, arguments)

    async def main() -> None:
        worker = Worker()
        text = await call_tool(tools, made, worker, timeout_seconds=limit)
        worker.close()
        assert text == (f"Error: {made.error}" if made.error is not None else made.result)

    asyncio.run(main())
    assert (made.result is None) == (made.error is not None)
    return made


def test_schema_of_a_function() -> None:
    tool = Tool.of(add)
    assert tool.name == "add" and Tool.of(tool) is tool
    assert tool.parameters == {
        "type": "object",
        "properties": {
            "a": {"type": "integer", "description": "the first."},
            "b": {"type": "integer", "description": "the second."},
        },
        "required": ["a"],
    }
    assert tool.schema["function"]["description"] == "Add two numbers."


def test_methods_are_tools() -> None:
    counter = Counter()
    tools = tools_by_name([counter.increase, counter.later])
    assert list(tools["increase"].parameters["properties"]) == ["by"]
    assert call(tools, "increase", by=3).result == "now 3"
    assert call(tools, "increase", by=4).result == "now 7"
    assert call(tools, "later", text="soon").result == "soon"


def without_docstring(a: int) -> int:
    return a


def without_hint(a) -> int:  # type: ignore[no-untyped-def]
    """A.

    Args:
        a: one.
    """
    return a


def without_description(a: int, second: int) -> int:
    """A.

    Args:
        a: one.
    """
    return a + second


def with_a_class(a: Counter) -> int:
    """A.

    Args:
        a: one.
    """
    return a.count


def with_anything(**rest: int) -> int:
    """A."""
    return len(rest)


def with_unknown_hint(a: Nowhere) -> int:  # type: ignore[name-defined] # noqa: F821
    """A.

    Args:
        a: one.
    """
    return 0


@pytest.mark.parametrize(
    ("function", "named"),
    [
        (without_docstring, "docstring"),
        (without_hint, "Argument a"),
        (without_description, "second"),
        (with_a_class, "Counter"),
        (with_anything, "rest"),
        (with_unknown_hint, "Nowhere"),
        (lambda a: a, "lambda"),
    ],
)
def test_what_is_missing_is_named(function: Any, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        Tool.of(function)


def test_two_tools_of_one_name() -> None:
    with pytest.raises(ConfigError, match="add"):
        tools_by_name([add, add])


TOOLS = tools_by_name([add, lookup])


@pytest.mark.parametrize(
    ("name", "arguments", "result"),
    [
        ("add", {"a": 2, "b": 3}, "5"),
        ("add", {"a": 2}, "3"),
        ("add", {"a": 2.0}, "3"),
        ("lookup", {"city": "Zürich"}, '{"city": "Zürich", "units": "C", "days": null}'),
        (
            "lookup",
            {"city": "Rome", "units": "F", "days": [1, 2.0]},
            '{"city": "Rome", "units": "F", "days": [1, 2]}',
        ),
        ("lookup", {"city": "Rome", "days": None}, '{"city": "Rome", "units": "C", "days": null}'),
    ],
)
def test_results(name: str, arguments: dict[str, Any], result: str) -> None:
    assert call(TOOLS, name, **arguments).result == result


@pytest.mark.parametrize(
    ("name", "arguments", "named"),
    [
        ("ad", {"a": 1}, "add"),
        ("add", {}, "'a' is missing"),
        ("add", {"a": "2"}, "integer"),
        ("add", {"a": True}, "integer"),
        ("add", {"a": 2.5}, "integer"),
        ("add", {"a": 1, "c": 2}, "'c'"),
        ("lookup", {"city": 3}, "string"),
        ("lookup", {"city": "Rome", "units": "K"}, '"C", "F"'),
        ("lookup", {"city": "Rome", "days": ["Monday"]}, "days[0]"),
        ("lookup", {"city": "Rome", "days": 3}, "array"),
    ],
)
def test_wrong_calls_are_errors_for_the_model(
    name: str, arguments: dict[str, Any], named: str
) -> None:
    made = call(TOOLS, name, **arguments)
    assert made.error is not None and named in made.error


def test_exceptions_and_deadlines() -> None:
    def divide(a: int, b: int) -> float:
        """Divide.

        Args:
            a: the first.
            b: the second.
        """
        return a / b

    def wait(seconds: float) -> str:
        """Wait.

        Args:
            seconds: how long.
        """
        time.sleep(seconds)
        return "done"

    class Unprintable:
        def __str__(self) -> str:
            raise ValueError("secret")

    def odd() -> Any:
        """Give something odd."""
        return Unprintable()

    tools = tools_by_name([divide, wait, odd])
    assert call(tools, "divide", a=1, b=0).error == "ZeroDivisionError: division by zero"
    late = call(tools, "wait", 0.05, seconds=5)
    assert late.error == "the tool took longer than 0.05 s" and late.seconds >= 0.05
    assert "secret" in (call(tools, "odd").error or "")
    assert call(tools, "wait", seconds=0.01).seconds >= 0.01


INTEGER_OR_TEXTS = {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "string"}}]}
PAIR = {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}]}
POINT = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


@pytest.mark.parametrize(
    ("schema", "value", "right"),
    [
        ({"type": ["string", "null"]}, None, True),
        ({"type": ["string", "null"]}, 3, False),
        (
            INTEGER_OR_TEXTS,
            ["a"],
            True,
        ),
        (
            INTEGER_OR_TEXTS,
            [1],
            False,
        ),
        (
            PAIR,
            [1, "a"],
            True,
        ),
        (PAIR, [1], False),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, {"a": 1}, True),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, {"a": "b"}, False),
        (
            POINT,
            {},
            False,
        ),
        ({"type": "number"}, float("inf"), True),
        ({"type": "integer"}, float("nan"), False),
        ({"type": "image"}, "anything", True),
        ({}, object, True),
    ],
)
def test_values_against_schemas(schema: dict[str, Any], value: Any, right: bool) -> None:
    _, problem = checked_arguments({"properties": {"x": schema}}, {"x": value})
    assert (problem is None) == right
    if problem is not None:
        assert "x" in problem


def test_an_open_schema_takes_anything() -> None:
    assert checked_arguments({"type": "object"}, {"a": 1}) == ({"a": 1}, None)
    assert checked_arguments({"properties": {}}, {"a": 1})[1] is not None


def test_texts() -> None:
    assert result_text(None) == "" and result_text("a") == "a" and result_text(1.5) == "1.5"
    assert result_text([1, "b"]) == '[1, "b"]' and result_text({"a": {1}}) == '{"a": "{1}"}'
