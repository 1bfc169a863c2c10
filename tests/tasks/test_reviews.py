"""Made judgements of made solutions."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from posttrain.errors import ConfigError
from posttrain.rewards.judge_questions import INSTRUCTION
from posttrain.rewards.reasoned_judge import verdict_of
from posttrain.tasks.arithmetic import arithmetic, score
from posttrain.tasks.reviews import CORRECT, Attempt, Kind, reviews

KINDS: tuple[Any, ...] = get_args(Kind)


@pytest.mark.parametrize("kind", KINDS)
def test_the_worked_reply_gets_the_score_1(kind: Any) -> None:
    task = reviews(kinds=[kind], num_examples=40)
    assert all(task.score(str(e.completion), e) == 1.0 for e in task.examples)
    assert all(task.score("", e) == 0.0 for e in task.examples)
    replies = {str(e.completion) for e in task.examples}
    assert len(replies) > 1, "every reply is the same"


def test_an_attempt_by_hand() -> None:
    """7+5*3 with a slip in the second line: 12*3 is 36."""
    right = [(7, "+", 5, 12), (12, "*", 3, 36)]
    a = Attempt(7, right, [(7, "+", 5, 12), (12, "*", 3, 35)])
    assert a.prompt == "Q: 7+5*3\nA:" and a.text == " 7+5=12\n12*3=35\n#### 35"
    assert (a.wrong, a.is_right) == (1, False)
    assert a.solution == " 7+5=12\n12*3=36\n#### 36"
    assert Attempt(7, right, right).is_right and Attempt(7, right, right, False).wrong is None
    assert not Attempt(7, right, right, ended=False).is_right


def test_comparisons_have_the_right_solution_on_either_side() -> None:
    task = reviews(kinds=["comparison"], num_examples=60)
    sides = [str(e.completion).strip() for e in task.examples]
    assert 15 < sides.count("A") < 45
    for e in task.examples[:20]:
        first, second = str(e.prompt).split("Answer A:\n")[1].split("\n\nAnswer B:\n")
        chosen = first if e.answer == "A" else second.split("\n\nWhich")[0]
        assert "####" in chosen


def test_verdicts_follow_their_checks() -> None:
    task = reviews(kinds=["verdict"], num_examples=60)
    for e in task.examples:
        reply = str(e.completion)
        assert verdict_of(reply) == e.answer
        fails = "wrong" in reply or "no answer" in reply
        assert fails == (e.answer == "no")


def test_a_revision_is_the_right_solution_and_a_reflection_ends_in_it() -> None:
    problems = {str(e.prompt): e for e in arithmetic(num_examples=1, num_steps=2).examples}
    assert problems
    task = reviews(kinds=["revision", "reflection"], num_examples=60, slips=0.6)
    turned = 0
    for e in task.examples:
        last = str(e.completion).strip().rpartition("#### ")[2]
        asked = str(e.prompt).rpartition("Q: ")[2].removesuffix("\nA:")
        solved = arithmetic(num_examples=1, num_steps=2).examples[0]
        assert score(str(e.completion), _answered(solved, asked, last)) == 1.0
        turned += "Wait." in str(e.completion)
    assert turned > 5


def _answered(example: Any, asked: str, answer: str) -> Any:
    """An example with the answer of a chain from left to right."""
    import re
    from dataclasses import replace

    parts = re.findall(r"([+*-]?)(\d+)", asked)
    value = int(parts[0][1])
    for operation, number in parts[1:]:
        n = int(number)
        value = {"+": value + n, "-": value - n, "*": value * n}[operation]
    assert str(value) == answer
    return replace(example, answer=str(value))


def test_questions_are_those_of_the_rewards() -> None:
    default, own = (
        reviews(kinds=["rating", "critique"], num_examples=8, instruction=i) for i in (None, "Go.")
    )
    assert str(default.examples[0].prompt).startswith(INSTRUCTION)
    assert str(own.examples[0].prompt).startswith("Go.\n\nQuestion:\nQ: ")
    assert "principle: " in str(own.examples[1].prompt) and CORRECT.endswith(".")


@pytest.mark.parametrize(
    "wrong", [{"kinds": []}, {"slips": 2.0}, {"levels": 1}, {"num_steps": 0}, {"kinds": ["poem"]}]
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises((ConfigError, ValueError)):
        reviews(**{"kinds": ["rating"], "num_examples": 2, **wrong})


def test_rows_of_arithmetic_have_a_rubric_where_it_is_asked_for() -> None:
    plain, with_rubric = (arithmetic(num_examples=2, num_steps=2, rubric=r) for r in (False, True))
    (one,) = with_rubric.examples[:1]
    assert "rubric" not in plain.examples[0].columns
    lines = str(one.completion).strip().split("\n")
    expected = [f"It has the line {line}." for line in lines[:2]]
    assert one.columns["rubric"] == [*expected, f"The answer is {one.answer}."]
