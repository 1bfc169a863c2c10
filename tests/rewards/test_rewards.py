from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest

from posttrain import registry
from posttrain.errors import ConfigError, RewardError
from posttrain.rewards.base import RewardSet
from posttrain.rewards.exact import (
    canonical,
    exact,
    extract_answer,
    last_boxed,
    parse_number,
    same_answer,
)
from posttrain.rewards.format import keyword, length, overlong, pattern, tags
from posttrain.types import Example, Rollout, RolloutGroup, Sample, Task


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,000", 1000),
        ("$5", 5),
        ("12%", 12),
        ("3/4", Fraction(3, 4)),
        ("-0.50", Fraction(-1, 2)),
        ("7.", 7),
        ("1e3", 1000),
        ("\u22123", -3),
        (".5", Fraction(1, 2)),
        ("1/0", None),
        ("x", None),
        ("", None),
        ("1,00", None),
        ("9" * 500, None),
    ],
)
def test_numbers(text: str, value: object) -> None:
    assert parse_number(text) == value


def test_answers() -> None:
    text = r"First 3, then \boxed{\frac{1}{2}} and <answer> x </answer> #### 1,234.0"
    assert extract_answer(text, "last_number") == "1,234.0"
    assert extract_answer(text, "hash") == "1,234.0"
    assert extract_answer(text, "boxed") == r"\frac{1}{2}"
    assert extract_answer(text, "tag") == "x"
    assert extract_answer("  all ", "whole") == "all"
    assert [extract_answer("none", e) for e in ("last_number", "hash", "boxed", "tag")] == [
        None
    ] * 4  # type: ignore[arg-type]
    assert (
        last_boxed(r"\boxed{a{b}c} \boxed{open") is None and last_boxed(r"\boxed{a{b}c}") == "a{b}c"
    )
    assert (
        canonical("1,000") == canonical("1000.0") == "1000"
        and canonical(" Blue  sky ") == "blue sky"
    )
    assert (
        same_answer("0.5", "1/2") and not same_answer(None, "1") and same_answer("Paris", "paris")
    )


def test_exact() -> None:
    assert exact(["it is 7", "7 or 8", ""], ["7", 7, "7"]) == [1, 0, 0]
    chat = [[{"role": "assistant", "content": "so 4"}]]
    assert exact(chat, ["4"]) == [1]


def test_form() -> None:
    good = "<think>a</think>\n<answer>b</answer>"
    assert tags([good, good + "x", "<think>a</think>"]) == [1, 0, 0]
    assert tags(["<think>a</think>", ""], partial=True) == [0.5, 0]
    assert pattern(["ab12", "ab"], regex=r"\d+$") == [1, 0]
    with pytest.raises(ConfigError, match="not a regular expression"):
        pattern(["a"], regex="(")
    assert keyword(["The Sun and moon", ""], words=["sun", "moon", "star"]) == [2 / 3, 0]
    assert length([[1] * 4, [1] * 8, [1] * 20], target=8) == [0.5, 1, 0]
    # DAPO eq. 13 with max 10, buffer 4: up to 6 nothing, at 8 half, beyond 10 all
    assert overlong([[1] * n for n in (6, 8, 10, 15)], max_length=10, buffer=4) == [0, -0.5, -1, -1]
    with pytest.raises(ConfigError, match="buffer 10"):
        overlong([[1]], max_length=10, buffer=10)


def group(*texts: str, answer: Any = "1", **columns: Any) -> RolloutGroup:
    example = Example("p", " 1", answer, columns, id="e")
    return RolloutGroup(
        example, (1,), [Rollout(Sample([1, 2], [0.0] * 2, [0.0] * 2, "stop"), t) for t in texts]
    )


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Register functions for one test. What is shipped is imported first: its functions
    register once in a process.
    """
    for name in registry.rewards.names():
        registry.rewards.get(name)
    monkeypatch.setattr(registry.rewards, "_functions", dict(registry.rewards._functions))
    return registry.rewards.register


def test_inputs_by_name_and_weighted_sum(register: Any) -> None:
    seen: dict[str, Any] = {}

    @register
    def by_name(prompts, completions, completion_ids, level, trainer_state=None, log_metric=None):
        """Sees what it asks for."""
        seen.update(prompts=prompts, ids=completion_ids, level=level, state=trainer_state)
        return [2.0] * len(completions)

    @register
    def everything(completions, **columns):
        """Sees all columns; applies to the first completion only."""
        seen["columns"] = set(columns)
        return [1.0, None]

    async def later(completions):
        """Asynchronous."""
        return [0.0 for _ in completions]

    register(later)
    rewards = RewardSet([("by_name", 1.0, {}), ("everything", 0.5, {}), ("later", 3.0, {})])
    made = group("a", "b", level=4)
    rewards.reward([made])
    assert (
        seen["prompts"] == ["p", "p"]
        and seen["ids"] == [[1, 2]] * 2
        and seen["level"] == [4, 4]
        and seen["state"] is None
    )
    assert {"level", "answer", "prompts"} <= seen["columns"]
    assert [r.reward for r in made.rollouts] == [2.5, 2.0]
    assert made.rollouts[1].rewards == {"by_name": 2.0, "everything": None, "later": 0.0}


def test_failures_are_data_until_they_are_all(register: Any) -> None:
    @register
    def shaky(completions):
        """Fails on some."""
        return [math.nan if c == "bad" else 1.0 for c in completions]

    @register
    def broken(completions):
        """Fails always."""
        raise ZeroDivisionError("by zero")

    made = group("good", "bad")
    rewards = RewardSet([("shaky", 1.0, {}), ("length", 1.0, {})])
    rewards.reward([made])
    assert made.rollouts[0].reward is not None and made.rollouts[0].error is None
    assert made.rollouts[1].reward is None and made.rollouts[1].error == "shaky: returned nan"
    assert rewards.failures == {"shaky": 1}
    with pytest.raises(
        RewardError, match=r"(?s)'broken' failed on 2 of 2 .*ZeroDivisionError: by zero.*Traceback"
    ):
        RewardSet([("broken", 1.0, {})]).reward([group("a", "b")])
    with pytest.raises(RewardError, match="'shaky' failed on 1 of 2"):
        RewardSet([("shaky", 1.0, {})], max_failed=0.4).reward([group("good", "bad")])


def test_contract_errors(register: Any) -> None:
    @register
    def wants(completions, colour):
        """Asks for a column."""
        return [0.0] * len(completions)

    @register
    def short(completions):
        """Returns too few."""
        return [1.0]

    with pytest.raises(
        RewardError, match="asks for 'colour', which is neither an input nor a column"
    ):
        RewardSet([("wants", 1.0, {})]).reward([group("a")])
    with pytest.raises(RewardError, match="returned 1 for 2 completions"):
        RewardSet([("short", 1.0, {})]).reward([group("a", "b")])
    with pytest.raises(ConfigError, match="'task' needs a task"):
        RewardSet([("task", 1.0, {})])
    with pytest.raises(ConfigError, match="at least one"):
        RewardSet([])


def test_chat_prompts_give_messages(register: Any) -> None:
    @register
    def sees(completions):
        """Looks at the shape."""
        assert completions == [[{"role": "assistant", "content": "a"}]]
        return [1.0]

    made = group("a")
    made.example = Example([{"role": "user", "content": "q"}], None, "1", {}, id="e")
    RewardSet([("sees", 1.0, {})]).reward([made])
    assert made.rollouts[0].reward == 1.0


def test_self_test(register: Any) -> None:
    right = Task("t", [Example("p", "1", "1", id="e")], lambda t, e: float(t == "1"), lambda t: t)
    RewardSet([("task", 1.0, {}), ("exact", 1.0, {}), ("length", 1.0, {})], task=right).self_test(
        right.examples
    )
    wrong = Task("t", right.examples, lambda t, e: 0.0, lambda t: t)
    with pytest.raises(
        RewardError,
        match="self-test of reward 'task': 0.0 for completion '1' with answer '1'; 1 was expected",
    ):
        RewardSet([("task", 1.0, {})], task=wrong).self_test(wrong.examples)

    @register
    def lenient(completions, answer):
        """Claims to be a verifier."""
        return [1.0] * len(completions)

    lenient.known_answers = [("5", "5", 1.0), ("", "5", 0.0)]
    with pytest.raises(
        RewardError, match="'lenient': 1.0 for completion '' with answer '5'; 0 was expected"
    ):
        RewardSet([("lenient", 1.0, {})]).self_test(right.examples)


def test_repeated_rewards_keep_apart() -> None:
    rewards = RewardSet([("length", 1.0, {"target": 2}), ("length", 1.0, {"target": 4})])
    made = group("a")
    rewards.reward([made])
    assert rewards.names == ["length", "length_1"] and made.rollouts[0].reward == 1.5
