"""Texts, messages and tools from the columns of a row."""

from __future__ import annotations

from typing import Any

import pytest

from posttrain.data.item import messages_of, rest_of, text_of, text_or_messages, tools_of
from posttrain.errors import DataError


@pytest.mark.parametrize("value", [None, 3, ["a"], "", "  \n", "half \ud83d"])
def test_what_is_no_text_names_row_and_column(value: Any) -> None:
    with pytest.raises(DataError, match="row 7: column 'prompt'"):
        text_of({"prompt": value}, "prompt", "7")


def test_a_blank_text_passes_where_it_may_be_empty() -> None:
    assert text_of({"completion": " "}, "completion", "7", empty=True) == " "
    assert text_of({"prompt": " a "}, "prompt", "7") == " a "


@pytest.mark.parametrize(
    ("role", "expected"),
    [
        ("human", "user"),
        ("gpt", "assistant"),
        ("model", "assistant"),
        ("developer", "system"),
        ("observation", "tool"),
    ],
)
def test_roles_and_keys_of_other_formats(role: str, expected: str) -> None:
    for keys in (("role", "content"), ("from", "value")):
        given = [dict(zip(keys, (role, "x"), strict=True))]
        assert messages_of(given, "messages", "0") == [{"role": expected, "content": "x"}]


def test_absent_keys_of_a_table_are_left_out_and_others_stay() -> None:
    given = [{"role": "assistant", "content": "x", "name": None, "weight": 0.5}]
    assert messages_of(given, "m", "0") == [{"role": "assistant", "content": "x", "weight": 0.5}]


def test_a_function_call_is_a_tool_call_of_the_assistant() -> None:
    given = [{"from": "function_call", "value": '{"name": "add", "arguments": {"a": 1}}'}]
    (message,) = messages_of(given, "m", "0")
    assert message["role"] == "assistant" and message["content"] == ""
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    assert message["tool_calls"] == [call]
    with pytest.raises(DataError, match="function_call"):
        messages_of([{"from": "function_call", "value": '{"arguments": {}}'}], "m", "0")


def test_a_call_needs_no_content_and_other_messages_do() -> None:
    call = {"role": "assistant", "tool_calls": [{"name": "add", "arguments": {}}]}
    assert messages_of([call], "m", "0")[0]["content"] == ""
    with pytest.raises(DataError, match=r"m\[0\]"):
        messages_of([{"role": "assistant"}], "m", "0")


@pytest.mark.parametrize(
    "message",
    [
        "text",
        {"role": "narrator", "content": "x"},
        {"role": "user", "content": 3},
        {"role": "user", "content": "\udc00"},
        {"role": "assistant", "content": "x", "tool_calls": "add"},
        {"role": "assistant", "content": "x", "tool_calls": [{"function": {"arguments": {}}}]},
        {"role": "assistant", "content": "x", "weight": -1},
        {"role": "assistant", "content": "x", "weight": True},
        {"role": "assistant", "content": "x", "weight": float("nan")},
    ],
)
def test_a_message_that_no_template_can_write_is_named(message: Any) -> None:
    good = {"role": "user", "content": "x"}
    with pytest.raises(DataError, match=r"row 4: m\[1\]"):
        messages_of([good, message], "m", "4")


@pytest.mark.parametrize("value", [[], {}, 3])
def test_a_column_is_text_or_messages(value: Any) -> None:
    with pytest.raises(DataError, match="row 4: column 'prompt'"):
        text_or_messages({"prompt": value}, "prompt", "4")
    assert text_or_messages({"prompt": "a"}, "prompt", "4") == "a"


def test_tools_are_a_list_or_its_json() -> None:
    schema = {"type": "function", "function": {"name": "add"}}
    for tools in ([schema], '[{"type": "function", "function": {"name": "add"}}]'):
        assert tools_of({"tools": tools}, "0") == [schema]
    for tools in (None, "", " ", []):
        assert tools_of({"tools": tools}, "0") is None
    for wrong in ({"name": "add"}, [3], '{"name": "add"}', "[", "3"):
        with pytest.raises(DataError, match="tools"):
            tools_of({"tools": wrong}, "0")


def test_other_columns_stay() -> None:
    assert rest_of({"prompt": 1, "a": 2, "b": None}, "prompt", "answer") == {"a": 2, "b": None}
