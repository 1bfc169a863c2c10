"""Chains of large numbers, their tool, and their splits."""

from __future__ import annotations

import inspect

import pytest
from transformers.utils import get_json_schema

from posttrain import registry
from posttrain.errors import ConfigError
from posttrain.tasks.calculator import CALCULATE, Calculator, split_of
from posttrain.types import Task


def calculator(**settings: object) -> Task:
    return registry.tasks.bind("calculator", settings)()


def test_a_worked_conversation_calls_the_tool_for_each_step() -> None:
    example = calculator(num_examples=1, num_steps=3).examples[0]
    assert isinstance(example.completion, list)
    *turns, last = example.completion
    tool = Calculator()
    for call, result in zip(turns[::2], turns[1::2], strict=True):
        arguments = call["tool_calls"][0]["function"]["arguments"]
        assert str(tool.calculate(**arguments)) == result["content"]
    assert len(turns) == 6
    assert last["content"] == f"#### {example.answer}"


def test_a_problem_is_its_steps_from_left_to_right() -> None:
    for example in calculator(num_examples=50).examples:
        assert isinstance(example.completion, list)
        value, text = None, ""
        for message in example.completion[:-1:2]:
            a = message["tool_calls"][0]["function"]["arguments"]
            text += f"{a['a']}{a['operator']}{a['b']}" if value is None else a["operator"]
            text += "" if value is None else str(a["b"])
            assert value is None or a["a"] == value
            value = Calculator().calculate(**a)
        assert text == example.columns["question"]
        assert "*" in text
        assert str(value) == example.answer


def test_no_problem_is_in_two_splits() -> None:
    questions = {
        split: {e.columns["question"] for e in calculator(num_examples=300, split=split).examples}
        for split in ("train", "validation", "test")
    }
    assert not questions["train"] & questions["test"]
    assert not questions["train"] & questions["validation"]
    assert not questions["validation"] & questions["test"]
    assert {split_of(q) for q in questions["test"]} == {"test"}


def test_the_schema_is_that_of_the_tool() -> None:
    schema = get_json_schema(Calculator().calculate)["function"]
    written = CALCULATE["function"]
    assert schema["name"] == written["name"]
    assert list(schema["parameters"]["properties"]) == list(written["parameters"]["properties"])
    assert schema["parameters"]["required"] == written["parameters"]["required"]
    assert (inspect.getdoc(Calculator.calculate) or "").startswith(written["description"])


def test_an_unknown_operator_is_refused() -> None:
    with pytest.raises(ValueError, match="operator"):
        Calculator().calculate(1, "/", 2)


def test_settings_without_problems_are_refused() -> None:
    for settings in ({"num_steps": 0}, {"max_value": 10}, {"max_operand": 2, "num_steps": 1}):
        with pytest.raises(ConfigError):
            calculator(num_examples=2000, **settings)
