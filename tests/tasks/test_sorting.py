"""Sorting: its answers and its grades."""

from __future__ import annotations

import pytest

from posttrain.errors import ConfigError
from posttrain.tasks.sorting import score, sorting


def test_the_answer_is_the_sorted_list() -> None:
    task = sorting(num_examples=3)
    for example in task.examples:
        numbers = sorted(int(x) for x in str(example.prompt).removeprefix("sort: ").split())
        assert example.answer == " ".join(map(str, numbers))
        assert score(example.answer, example) == 1.0 and score("x", example) == 0.0


def test_one_number_is_refused() -> None:
    with pytest.raises(ConfigError, match="num_numbers 1"):
        sorting(num_numbers=1)
