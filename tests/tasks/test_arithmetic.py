"""The splits of the arithmetic task: disjoint, stable, and what earlier versions reported on
unchanged.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from typing import Any

import pytest

from posttrain import registry
from posttrain.errors import ConfigError
from posttrain.tasks.arithmetic import draw_problem, held_out, question_text, split_of
from posttrain.types import Task, plain_text

SPLITS = ("train", "validation", "test")
DIFFICULTIES = [(1, 50, 199), (2, 20, 99), (3, 50, 199), (5, 60, 249)]


def arithmetic(difficulty: tuple[int, int, int], split: str, seed: int, num: int) -> Task:
    steps, operand, value = difficulty
    settings = {"num_steps": steps, "max_operand": operand, "max_value": value, "split": split}
    return registry.tasks.bind("arithmetic", {**settings, "seed": seed, "num_examples": num})()


def questions(difficulty: tuple[int, int, int], split: str, seed: int, num: int) -> list[str]:
    return [e.columns["question"] for e in arithmetic(difficulty, split, seed, num).examples]


def test_splits_do_not_meet_whatever_the_seed() -> None:
    drawn = {
        split: {q for d in DIFFICULTIES for s in range(4) for q in questions(d, split, s, 100)}
        for split in SPLITS
    }
    for one, other in itertools.combinations(SPLITS, 2):
        assert not drawn[one] & drawn[other], (one, other)
    for split, rows in drawn.items():
        assert {split_of(q) for q in rows} == {split}
        assert {held_out(q) for q in rows} == {split != "train"}


def before_validation(
    difficulty: tuple[int, int, int], split: str, seed: int, num: int
) -> list[str]:
    """The problems as they were drawn when held-out problems were all test problems."""
    steps, operand, value = difficulty
    draw = random.Random(f"arithmetic {seed} {steps} {operand} {value} {split}")
    drawn: list[str] = []
    while len(drawn) < num:
        question = question_text(*draw_problem(draw, *difficulty))
        byte = hashlib.blake2b(question.encode(), digest_size=1).digest()[0]
        if question not in drawn and (byte < 64) == (split == "test"):
            drawn.append(question)
    return drawn


@pytest.mark.parametrize("difficulty", [(5, 60, 249), (3, 60, 249), (3, 50, 199), (2, 20, 99)])
def test_what_was_trained_and_reported_on_has_not_moved(difficulty: tuple[int, int, int]) -> None:
    for seed in (0, 1, 2):
        assert questions(difficulty, "train", seed, 300) == before_validation(
            difficulty, "train", seed, 300
        )
    for seed in (0, 1):
        assert questions(difficulty, "test", seed, 300) == before_validation(
            difficulty, "test", seed, 300
        )


def test_a_validation_split_has_room_to_tune_on() -> None:
    for difficulty in DIFFICULTIES[1:]:
        task = arithmetic(difficulty, "validation", 0, 500)
        assert len({e.columns["question"] for e in task.examples}) == 500
        assert task.examples[7].id == "arithmetic-validation-0-7"
        assert all(task.score(str(e.completion), e) == 1.0 for e in task.examples)


def test_a_split_that_is_too_small_is_named() -> None:
    message = "only [0-9]+ different problems .* in split validation; ask for fewer num_examples"
    with pytest.raises(ConfigError, match=message):
        arithmetic((1, 50, 199), "validation", 0, 5000)


def make(name: str, **options: Any) -> Task:
    return registry.tasks.bind(name, options)()


def test_arithmetic_is_right_and_within_its_bounds() -> None:
    for example in make("arithmetic", num_examples=200, num_steps=4).examples:
        *steps, last = plain_text(example.completion or "").strip().split("\n")
        assert len(steps) == 4 and last == f"#### {example.answer}"
        before = None
        for step in steps:
            left, value = step.split("=")
            assert eval(left) == int(value) and 0 <= int(value) <= 199
            assert before is None or left.startswith(before)
            before = value
        assert example.columns["question"] in plain_text(example.prompt)
