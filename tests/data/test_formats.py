from __future__ import annotations

from typing import Any

import pytest

from posttrain.data.formats import detect_format, normalise, rows_to_imitate
from posttrain.errors import DataError

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
        "messages unpaired preference",
        {"messages": [USER, HELLO], "label": True},
        {"prompt": [USER], "completion": [HELLO], "label": True},
    ),
    ("messages", {"messages": [USER, HELLO], "label": 3}, {"completion": [USER, HELLO]}),
    (
        "messages preference",
        {
            "chosen_messages": [USER, {**HELLO, "loss_weight": 1.0}],
            "rejected_messages": [
                USER,
                {"role": "assistant", "content": [{"type": "text", "value": "no"}]},
            ],
        },
        {
            "prompt": [USER],
            "chosen": [{**HELLO, "weight": 1.0}],
            "rejected": [{"role": "assistant", "content": "no"}],
        },
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
    ("row", "message"),
    [
        ({"prompt": "a", "completion": ""}, "row 3: column 'completion' is empty"),
        (
            {"prompt": "a", "completion": 5},
            "row 3: column 'completion' must be text or a list of messages",
        ),
        ({"prompt": "a", "completion": [HELLO]}, "must both be text or both be messages"),
        ({"messages": [USER]}, "no assistant turn, so there is nothing to learn"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "has the role 'robot'"),
        ({"messages": ["x"]}, r"messages\[0\] is 'x', not a message"),
        ({"messages": [{"role": "user"}]}, r"messages\[0\] has no content"),
        ({"prompt": "a", "completion": "b", "label": "yes"}, "label is 'yes'"),
        ({"instruction": "a", "output": "b", "kto_tag": "false"}, "kto_tag is 'false'"),
        (
            {"prompt": "a", "completions": ["x"], "labels": [True, False]},
            "1 completions but 2 labels",
        ),
        ({"prompt": "a", "reward_model": {}}, "no ground_truth"),
        ({"conversations": [{"from": "function_call", "value": "{"}]}, "not valid JSON"),
    ],
)
def test_wrong_rows_are_named(row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        normalise(row, detect_format([row]), "3")


def test_unknown_columns_list_what_is_accepted() -> None:
    with pytest.raises(
        DataError,
        match=r"no format has the columns input, target.*prompt-completion: completion, "
        r"prompt.*data.columns",
    ):
        detect_format([{"input": "a", "target": "b"}])


PAIR = {
    "prompt": "abcd",
    "completion": "efgh",
}  # 1 + 4 + 4 + 1 tokens: BOS, prompt, completion, EOS


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"prompt": "a", "chosen": "b", "rejected": "c"},
            r"format preference \(columns .*pairs are for method dpo",
        ),
        (
            {"prompt": "a", "completions": ["b"], "labels": [True]},
            "format stepwise .*method reward_model",
        ),
        ({"prompt": "a", "reward_model": {"ground_truth": "b"}}, "format verl .*method grpo"),
        ({"prompt": "a", "answer": "b"}, "format prompt-only .*method grpo"),
        ({"prompt": "a", "completion": "b", "label": False}, "none is desirable"),
    ],
)
def test_formats_without_a_completion_say_what_they_are_for(
    row: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        rows_to_imitate([row])


def test_undesirable_completions_are_not_imitated() -> None:
    rows = [{"prompt": "a", "completion": str(i), "label": i % 2 == 0} for i in range(4)]
    assert rows_to_imitate(rows) == rows[::2] and rows_to_imitate([PAIR]) == [PAIR]
    tagged = [{"instruction": "a", "output": str(i), "kto_tag": bool(i)} for i in range(2)]
    assert rows_to_imitate(tagged) == tagged[1:]
