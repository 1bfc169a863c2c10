"""The conversations of the embedded tool model."""

from __future__ import annotations

import json
import re

import pytest

from posttrain import registry
from posttrain.errors import ConfigError
from posttrain.tasks.arithmetic import held_out
from posttrain.tasks.calculator import split_of
from posttrain.types import Task

CHAIN = re.compile(r"What is ([0-9+*-]+)\?")


def dialogues(**settings: object) -> Task:
    return registry.tasks.bind("dialogues", settings)()


def test_no_held_out_problem_is_asked() -> None:
    asked = 0
    for example in dialogues(num_examples=3000).examples:
        assert not isinstance(example.prompt, str)
        found = CHAIN.fullmatch(example.prompt[0]["content"])
        if found is None:
            continue
        asked += 1
        numbers = [int(n) for n in re.findall("[0-9]+", found[1])]
        large = "tools" in example.columns
        assert split_of(found[1]) == "train" if large else not held_out(found[1])
        assert large or max(numbers) <= 199
    assert asked > 1500


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_share_of_conversations_that_call_the_tool(share: float) -> None:
    examples = [
        e
        for e in dialogues(num_examples=1500, tool_share=share).examples
        if "tools" in e.columns and CHAIN.fullmatch(e.prompt[0]["content"])  # type: ignore[index]
    ]
    calls = sum("tool_calls" in e.completion[0] for e in examples)  # type: ignore[index]
    assert calls / len(examples) == pytest.approx(share, abs=0.06)


def test_json_replies_are_json() -> None:
    replies = [
        e.completion[0]["content"]  # type: ignore[index]
        for e in dialogues(num_examples=500).examples
        if e.prompt[0]["content"].startswith("As JSON")  # type: ignore[index]
    ]
    assert replies
    assert all(list(json.loads(reply)) == ["name", "age", "city"] for reply in replies)


def test_a_share_outside_zero_to_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="tool_share"):
        dialogues(tool_share=1.5)
