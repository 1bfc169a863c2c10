"""Rows of every known format become items."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.data.formats import detect_format, normalise
from posttrain.data.rows import load_rows

USER, HELLO = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}

CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("text", {"text": "abc"}, {"text": "abc"}),
    (
        "messages",
        {"messages": [USER, HELLO], "tools": "[]"},
        {"completion": [USER, HELLO], "tools": None},
    ),
    (
        "prompt-completion",
        {"prompt": "a", "completion": "b", "level": 3},
        {"prompt": "a", "completion": "b", "columns": {"level": 3}},
    ),
    (
        "prompt-completion",
        {"prompt": [USER], "completion": [HELLO]},
        {"prompt": [USER], "completion": [HELLO]},
    ),
    (
        "rewarded",
        {"prompt": "a", "completion": "b", "reward": 1, "id": "x"},
        {"completion": "b", "reward": 1.0, "columns": {"id": "x"}},
    ),
    ("prompt-only", {"prompt": "a", "answer": 4}, {"prompt": "a", "answer": 4}),
    ("question-answer", {"question": "a", "answer": "b"}, {"prompt": "a\n", "completion": "b"}),
    (
        "preference",
        {"prompt": "a", "chosen": "b", "rejected": "c", "margin": 2},
        {"prompt": "a", "chosen": "b", "rejected": "c", "margin": 2.0},
    ),
    (
        "preference",
        {"chosen": [USER, HELLO], "rejected": [USER, {"role": "assistant", "content": "no"}]},
        {"prompt": [USER], "chosen": [HELLO], "rejected": [{"role": "assistant", "content": "no"}]},
    ),
    (
        "unpaired preference",
        {"prompt": "a", "completion": "b", "label": False},
        {"label": False, "completion": "b"},
    ),
    (
        "stepwise",
        {"prompt": "a", "completions": ["x", "y"], "labels": [True, False]},
        {"steps": ["x", "y"], "step_labels": [True, False]},
    ),
    (
        "alpaca",
        {
            "instruction": "add",
            "input": "1 2",
            "output": "3",
            "system": "s",
            "history": [["q", "r"]],
        },
        {
            "prompt": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": "r"},
                {"role": "user", "content": "add\n1 2"},
            ],
            "completion": [{"role": "assistant", "content": "3"}],
        },
    ),
    (
        "alpaca preference",
        {"instruction": "a", "chosen": "b", "rejected": "c"},
        {"chosen": [{"role": "assistant", "content": "b"}]},
    ),
    (
        "alpaca unpaired preference",
        {"instruction": "a", "output": "b", "kto_tag": True},
        {"label": True},
    ),
    (
        "sharegpt",
        {
            "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}],
            "system": "s",
        },
        {"completion": [{"role": "system", "content": "s"}, USER, HELLO]},
    ),
    (
        "sharegpt preference",
        {
            "conversations": [{"from": "human", "value": "hi"}],
            "chosen": {"from": "gpt", "value": "hello"},
            "rejected": {"from": "gpt", "value": "no"},
        },
        {"prompt": [USER], "chosen": [HELLO]},
    ),
    (
        "verl",
        {
            "data_source": "d",
            "prompt": [USER],
            "reward_model": {"style": "rule", "ground_truth": "7"},
            "extra_info": {"i": 1},
        },
        {"prompt": [USER], "answer": "7"},
    ),
]


@pytest.mark.parametrize(
    ("name", "row", "expected"), CASES, ids=[f"{n}-{i}" for i, (n, _, _) in enumerate(CASES)]
)
def test_detect_and_normalise(name: str, row: dict[str, Any], expected: dict[str, Any]) -> None:
    form = detect_format([row])
    assert form.name == name and "columns" in form.reason
    item = normalise(row, form, "7")
    for key, value in expected.items():
        assert getattr(item, key) == value


def test_tool_calls_of_sharegpt() -> None:
    row = {
        "conversations": [
            {"from": "human", "value": "weather?"},
            {
                "from": "function_call",
                "value": '{"name": "weather", "arguments": {"city": "Bern"}}',
            },
            {"from": "observation", "value": "sunny"},
            {"from": "gpt", "value": "It is sunny."},
        ],
        "tools": '[{"name": "weather"}]',
    }
    item = normalise(row, detect_format([row]), "0")
    assert isinstance(item.completion, list)
    assert [m["role"] for m in item.completion] == ["user", "assistant", "tool", "assistant"]
    assert item.completion[1]["tool_calls"][0]["function"] == {
        "name": "weather",
        "arguments": {"city": "Bern"},
    }
    assert item.tools == [{"name": "weather"}]


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("gsm8k/test.jsonl", "question-answer"),
        ("rasbt_instruct/*.json", "alpaca"),
        ("hh_rlhf/*", "preference"),
        ("self_instruct/seed*", None),
    ],
)
def test_real_files(shared: Path, file: str, name: str | None) -> None:
    for path in sorted((shared / "data").glob(file)):
        rows = load_rows(path, limit=50)
        if name is None:
            continue
        form = detect_format(rows)
        assert form.name.startswith(name) or form.name == "alpaca preference", (path, form)
        for number, row in enumerate(rows):
            if form.name == "alpaca" and not row["output"]:
                continue
            normalise(row, form, str(number))


def test_llamafactory_demo_files(shared: Path) -> None:
    found = {}
    for path in sorted((shared / "data" / "llamafactory_demo").glob("*.json*")):
        rows = load_rows(path, limit=40)
        if "chosen_messages" in rows[0]:  # names of its own, which a recipe maps
            rows = load_rows(
                path,
                limit=40,
                columns={"chosen": "chosen_messages", "rejected": "rejected_messages"},
            )
        form = detect_format(rows)
        found[path.name] = form.name
        for number, row in enumerate(rows):
            normalise(row, form, str(number))
    assert len(set(found.values())) >= 3, json.dumps(found)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {"prompt": "q", "completions": ["a", "b"], "scores": [1.0, 0.0]},
        {
            "conversations": [{"from": "human", "value": "q"}],
            "chosen": {"from": "gpt", "value": "a"},
            "rejected": {"from": "gpt", "value": "b"},
        },
    ],
)
def test_compared_completions_may_call_tools(row: dict[str, Any]) -> None:
    tools = [{"type": "function", "function": {"name": "add"}}]
    item = normalise({**row, "tools": tools}, detect_format([row]), "0")
    assert item.tools == tools and "tools" not in item.columns
