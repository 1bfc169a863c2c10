"""Shares, counts, order and shape of mixtures."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from posttrain.data.mixture import (
    BUFFER,
    counts,
    easiest_first,
    in_one_format,
    mixed,
    rates,
    size_of,
)
from posttrain.errors import ConfigError, DataError


def reader(rows: list[dict[str, Any]]):
    return lambda: iter(rows)


def numbered(name: str, number: int):
    return reader([{"text": f"{name}{i}"} for i in range(number)])


def test_rates_are_those_of_t5() -> None:
    assert rates([100, 300]).tolist() == [0.25, 0.75]
    assert rates([100, 900], max_examples=100).tolist() == [0.5, 0.5]
    assert rates([100, 400], temperature=2).tolist() == pytest.approx([1 / 3, 2 / 3])
    assert rates([1, 1000], temperature=1e6).tolist() == pytest.approx([0.5, 0.5], abs=1e-4)
    assert rates([5, 5], weights=[3, 1]).tolist() == [0.75, 0.25]


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": 0},
        {"max_examples": 0},
        {"weights": [1]},
        {"weights": [0, 0]},
        {"weights": [1, -1]},
    ],
)
def test_numbers_out_of_range_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        rates([1, 2], **wrong)


def test_counts_add_up_and_nothing_repeats_unless_asked() -> None:
    sizes = [100, 900]
    assert counts(sizes, rates(sizes), None) == sizes
    assert counts(sizes, rates(sizes, max_examples=300), None) == [100, 300]
    assert counts(sizes, rates(sizes, weights=[1, 1]), None) == [100, 100]
    assert counts([10, 10, 10], rates([10, 10, 10]), 10) == [4, 3, 3]
    assert counts([10, 10], rates([10, 10], weights=[0, 1]), None) == [0, 10]
    assert counts([10, 10], rates([10, 10]), 60) == [30, 30]


def test_a_mixture_holds_its_rows_in_an_order_of_its_seed() -> None:
    readers, sizes = [numbered("a", 30), numbered("b", 10)], [30, 10]
    rows = list(mixed(readers, [15, 25], sizes, seed=1))
    assert rows == list(mixed(readers, [15, 25], sizes, seed=1))
    assert rows != list(mixed(readers, [15, 25], sizes, seed=2))
    texts = Counter(row["text"] for _, row in rows)
    assert sum(n for t, n in texts.items() if t.startswith("a")) == 15
    assert max(n for t, n in texts.items() if t.startswith("a")) == 1
    of_b = [n for t, n in texts.items() if t.startswith("b")]
    assert sorted(of_b) == [2] * 5 + [3] * 5
    assert all(row["text"].startswith("ab"[source]) for source, row in rows)


def test_any_part_of_a_long_mixture_has_its_shares() -> None:
    number = 3 * BUFFER
    readers = [numbered("a", number), numbered("b", number)]
    sources = [source for source, _ in mixed(readers, [number, number], [number] * 2)]
    for start in range(0, 2 * number, BUFFER):
        share = np.mean(sources[start : start + BUFFER])
        assert 0.45 < share < 0.55


def test_a_source_without_rows_is_refused() -> None:
    with pytest.raises(DataError, match="empty"):
        size_of(reader([]), "empty")


ALPACA = [{"instruction": "Add", "input": "1, 2", "output": "3"}]
SHAREGPT = [
    {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}
]
MESSAGES = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]
PAIRS = [{"prompt": "1 + 1 =", "completion": " 2", "id": 7, "weight": 0.5}]
QUESTIONS = [{"question": "What is 1 + 1?", "answer": "2"}]


def test_conversations_of_several_formats_become_one() -> None:
    readers = in_one_format([reader(ALPACA), reader(SHAREGPT), reader(MESSAGES)], ["a", "s", "m"])
    rows = [next(read()) for read in readers]
    assert all(set(row) == {"messages"} for row in rows)
    roles = [[m["role"] for m in row["messages"]] for row in rows]
    assert roles == [["user", "assistant"]] * 3
    assert rows[0]["messages"][0]["content"] == "Add\n1, 2"
    assert rows[2]["messages"] == MESSAGES[0]["messages"]


def test_pairs_of_texts_become_one_and_keep_their_weight() -> None:
    first, second = in_one_format([reader(PAIRS), reader(QUESTIONS)], ["p", "q"])
    assert next(first()) == {"weight": 0.5, "prompt": "1 + 1 =", "completion": " 2"}
    assert next(second()) == {"prompt": "What is 1 + 1?\n", "completion": "2"}


def test_equal_formats_stay_as_they_are() -> None:
    readers = [reader(PAIRS), reader(PAIRS)]
    assert in_one_format(readers, ["a", "b"]) == readers


@pytest.mark.parametrize("other", [PAIRS, [{"text": "plain"}], [{"prompt": "p", "answer": "a"}]])
def test_formats_without_a_common_one_are_refused(other: list) -> None:
    with pytest.raises(DataError, match="messages"):
        in_one_format([reader(MESSAGES), reader(other)], ["m", "o"])


def test_a_curriculum_rises_and_what_has_no_difficulty_is_last() -> None:
    rows = [{"n": i} for i in range(4)]
    ordered = list(easiest_first(rows, [2.0, float("nan"), 1.0, 2.0]))
    assert [row["n"] for row in ordered] == [2, 0, 3, 1]
    with pytest.raises(DataError):
        list(easiest_first(rows, [1.0]))
