"""The contract of a reward: inputs by name, failures as data, weighted sums."""

from __future__ import annotations

import math
from typing import Any

import pytest

from posttrain import registry
from posttrain.errors import ConfigError, RewardError
from posttrain.rewards.base import RewardSet
from posttrain.types import Example, Sample, Task, Trace, TraceGroup


def group(*texts: str, answer: Any = "1", **columns: Any) -> TraceGroup:
    example = Example("p", " 1", answer, columns, id="e")
    return TraceGroup(
        example,
        (1,),
        [Trace.of_sample((1,), Sample([1, 2], [0.0] * 2, [0.0] * 2, "stop"), t) for t in texts],
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
    assert [r.reward for r in made.traces] == [2.5, 2.0]
    assert made.traces[1].rewards == {"by_name": 2.0, "everything": None, "later": 0.0}


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
    assert made.traces[0].reward is not None and made.traces[0].error is None
    assert made.traces[1].reward is None and made.traces[1].error == "shaky: returned nan"
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
    assert made.traces[0].reward == 1.0


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
    assert rewards.names == ["length", "length_1"] and made.traces[0].reward == 1.5
