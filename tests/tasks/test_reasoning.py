"""Long worked reasoning about chains of arithmetic."""

from __future__ import annotations

import re

import pytest

from posttrain.errors import ConfigError
from posttrain.rewards.format import tags
from posttrain.tasks.arithmetic import arithmetic, split_of
from posttrain.tasks.reasoning import WORDS, reasoning


def test_every_line_and_every_check_is_right() -> None:
    task = reasoning(num_examples=60, num_steps=3)
    for e in task.examples:
        equations = re.findall(r"([\d+*-]+)=(\d+)", str(e.completion))
        assert len(equations) == 6
        assert all(eval(left) == int(right) for left, right in equations)
        assert task.score(str(e.completion), e) == 1.0
    assert tags([str(e.completion) for e in task.examples]) == [1.0] * 60


def test_problems_and_splits_are_those_of_arithmetic() -> None:
    ours, theirs = (
        make(num_examples=20, split="test", num_steps=2, max_operand=20, max_value=99)
        for make in (reasoning, arithmetic)
    )
    assert [e.prompt for e in ours.examples] == [e.prompt for e in theirs.examples]
    assert {split_of(str(e.columns["question"])) for e in ours.examples} == {"test"}


def test_languages_are_mixed_as_asked() -> None:
    german = WORDS["de"][0]
    for share, low, high in ((0.0, 0, 0), (0.5, 70, 130), (1.0, 200, 200)):
        texts = [str(e.completion) for e in reasoning(num_examples=100, mixed_share=share).examples]
        assert low <= sum(text.count(f"{german} ") for text in texts) <= high


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer>36</answer>", "36"),
        ("<answer> 36 </answer> <answer>7</answer>", "7"),
        ("<answer>-3</answer>", "-3"),
        ("<answer>thirty</answer>", None),
        ("<answer></answer>", None),
        ("36", None),
    ],
)
def test_the_answer_stands_between_the_last_tags(text: str, answer: str | None) -> None:
    assert reasoning(num_examples=1).extract(text) == answer


def test_a_share_is_a_share() -> None:
    with pytest.raises(ConfigError):
        reasoning(mixed_share=2.0)
