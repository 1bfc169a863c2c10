"""Rows of reasoning: right ones alone, with the prompt as it was."""

from __future__ import annotations

from typing import Any

import pytest

import posttrain as pt
from posttrain.errors import ConfigError, DataError
from posttrain.tasks.arithmetic import arithmetic

TASK = arithmetic(num_steps=1, num_examples=6)
SIMPLE: dict[str, Any] = {"template": "{prompt}", "num_generations": 4}


def test_rows_are_right_and_have_the_plain_prompt() -> None:
    template = "{answer}\n{prompt}"
    rows = pt.reasoned_rows("embedded", TASK, template=template, num_generations=8)
    by_id = {e.id: e for e in TASK.examples}
    assert rows and len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        example = by_id[row["id"]]
        assert row["prompt"] == example.prompt
        assert TASK.score(row["completion"], example) == 1
    plan = pt.sft(rows, batch_size=2)
    assert plan.method == "sft"


def test_bare_answers_may_be_left_out() -> None:
    with pytest.raises(DataError):
        pt.reasoned_rows("embedded", TASK, template="{answer}\n{prompt}", min_characters=10_000)


def test_wrong_calls_are_refused() -> None:
    with pytest.raises(ConfigError):
        pt.reasoned_rows("embedded", TASK, **SIMPLE)
    with pytest.raises(ConfigError):
        pt.reasoned_rows("embedded", TASK, max_per_prompt=0)
    bare = pt.make_task([{"prompt": "a", "completion": "b"}])
    with pytest.raises(DataError):
        pt.reasoned_rows("embedded", bare)
