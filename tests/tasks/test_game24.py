"""Game of 24: right expressions count, wrong ones never do, and the splits are disjoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from posttrain.errors import ConfigError, DataError
from posttrain.tasks.countdown import evaluate
from posttrain.tasks.game24 import game24, score, solution, split_of
from posttrain.types import Example

EXAMPLE = Example("", columns={"numbers": [4, 5, 6, 10], "target": 24})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("(10-4)*5-6", 1.0),
        (" (10 - 4)*5-6 = 24\nmore", 1.0),
        ("6*4", 0.0),  # not all numbers
        ("4*6*(10-5)/5", 0.0),  # one twice
        ("24", 0.0),
        ("(10-4)*5-6+0", 0.0),  # a number that was not given
        ("10+4+5+6", 0.0),
        ("10//4", 0.0),
        ("2**4", 0.0),
        ("", 0.0),
        ("__import__('os')", 0.0),
    ],
)
def test_the_verdict_is_exact(text: str, value: float) -> None:
    assert score(text, EXAMPLE) == value


def test_solutions_that_need_fractions_are_found_and_impossible_problems_have_none() -> None:
    for numbers in ((3, 3, 8, 8), (1, 5, 5, 5), (1, 1, 4, 6)):
        found = solution(numbers)
        assert found is not None
        assert score(found, Example("", columns={"numbers": list(numbers)})) == 1.0
    assert solution((1, 1, 1, 1)) is None


def test_splits_are_disjoint_in_any_order_and_worked_examples_are_right() -> None:
    train = game24(num_examples=60)
    test = game24(split="test", num_examples=60, seed=1)
    names = [{tuple(sorted(e.columns["numbers"])) for e in t.examples} for t in (train, test)]
    assert len(names[0]) == len(names[1]) == 60 and not names[0] & names[1]
    assert split_of((4, 5, 6, 10)) == split_of((10, 6, 5, 4))
    for example in (*train.examples, *test.examples):
        assert score(str(example.completion), example) == 1.0
        result = evaluate(str(example.completion))
        assert result is not None and result[0] == 24


def test_a_file_of_puzzles(tmp_path: Path) -> None:
    path = tmp_path / "24.csv"
    path.write_text("Rank,Puzzles,Solved rate\n1,1 1 4 6,99%\n2,1 1 11 11,99%\n3,4 5 6 10,9%\n")
    task = game24(path=str(path), split="all", first_row=1)
    assert [e.columns["numbers"] for e in task.examples] == [[1, 1, 11, 11], [4, 5, 6, 10]]
    parts = [
        {e.id for e in game24(path=str(path), split=split).examples}
        for split in ("train", "test")
        if any(split_of(tuple(e.columns["numbers"])) == split for e in task.examples)
    ]
    assert sum(map(len, parts)) <= 3 and not set.intersection(*parts, *([set()] * (2 - len(parts))))
    path.write_text("Puzzles\n1 2 3\n")
    with pytest.raises(DataError, match="row 0"):
        game24(path=str(path), split="all")


def test_the_file_of_tree_of_thoughts(shared: Path) -> None:
    path = shared / "data" / "game24_tot" / "24.csv"
    task = game24(path=str(path), split="all", first_row=900, num_examples=100)
    assert len(task.examples) == 100
    assert all(e.completion is not None for e in task.examples)


def test_chat_prompts_and_settings_out_of_range() -> None:
    (example,) = game24(num_examples=1, chat=True).examples
    assert isinstance(example.prompt, list) and example.prompt[0]["role"] == "user"
    for settings in ({"num_examples": 0}, {"first_row": 2}, {"max_number": 3}):
        with pytest.raises(ConfigError):
            game24(**settings)
    with pytest.raises(ConfigError):
        game24(num_examples=500, max_number=5)
