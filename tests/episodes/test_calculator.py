"""The calculator as an environment that recipes name."""

from __future__ import annotations

from posttrain import registry
from posttrain.episodes.environments import tool_methods
from posttrain.episodes.tools import tools_by_name
from posttrain.tasks.calculator import CALCULATE


def test_its_tool_is_that_of_the_task() -> None:
    made = registry.environments.bind("calculator")()
    (tool,) = tools_by_name(tool_methods(made)).values()
    schema = dict(tool.schema)["function"]
    assert schema["name"] == CALCULATE["function"]["name"]
    assert list(schema["parameters"]["properties"]) == ["a", "operator", "b"]
    assert made.calculate(347, "*", 28) == 9716
