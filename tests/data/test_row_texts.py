"""The text of rows of every format."""

from __future__ import annotations

from typing import Any

import pytest

from posttrain.data.row_texts import RowText, RowTexts, text_of


def text(row: dict[str, Any], columns: list[str] | None = None) -> RowText:
    ((_, found),) = RowTexts(columns)([row])
    return found


@pytest.mark.parametrize(
    ("row", "prompt", "completion", "whole"),
    [
        ({"text": "a b"}, "", "a b", "a b"),
        ({"prompt": "p", "completion": "c", "id": "x"}, "p", "c", "p\nc"),
        ({"instruction": "i", "input": "n", "output": "o"}, "i\nn", "o", "i\nn\no"),
        ({"prompt": "p", "chosen": "good", "rejected": "bad"}, "p", "good", "p\ngood\nbad"),
        ({"question": "q", "answer": "7"}, "q\n", "7", "q\n\n7"),
        ({"prompt": "p", "answer": "7"}, "p", "", "p\n7"),
        ({"prompt": "p", "completions": ["s", "t"], "labels": [1, 0]}, "p", "s\nt", "p\ns\nt"),
        ({"prompt": "p", "completions": ["s", "t"], "scores": [1, 0]}, "p", "s", "p\ns\nt"),
    ],
)
def test_each_format(row: dict, prompt: str, completion: str, whole: str) -> None:
    found = text(row)
    assert (found.prompt, found.completion, found.text) == (prompt, completion, whole)


def test_a_conversation_is_its_turns() -> None:
    turns = [("system", "s"), ("user", "u"), ("assistant", "a"), ("user", "v"), ("assistant", "b")]
    row = {"messages": [{"role": role, "content": content} for role, content in turns]}
    found = text(row)
    assert (found.prompt, found.completion, found.text) == ("s\nu\nv", "a\nb", "s\nu\na\nv\nb")
    assert found.roles == ("system", "user", "assistant", "user", "assistant")


def test_raw_dialogues_are_divided() -> None:
    start = "\n\nHuman: Hello\n\nAssistant:"
    found = text({"chosen": f"{start} Good day", "rejected": f"{start} Go away"})
    assert (found.prompt, found.completion) == (start, " Good day")


def test_columns_and_unknown_formats_and_unreadable_rows() -> None:
    assert text({"prompt": "p", "topic": "t"}, ["topic"]).text == "t"
    assert text({"a": "x", "b": ["y", {"c": "z"}], "n": 3}).text == "x\ny\nz"
    rows = [{"prompt": "p", "completion": "c"}, {"prompt": "p", "completion": 3}]
    reader = RowTexts()
    found = [item for _, item in reader(rows)]
    assert reader.form is not None and reader.form.name == "prompt-completion"
    assert found[1].item is None and found[1].text == "p"


def test_parts_of_a_message_are_joined() -> None:
    parts = [{"type": "text", "text": "look"}]
    row = {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "a"}]}
    assert "look" in text(row).text and text_of(parts) == "text\nlook"
