"""What users' rewards do wrong: to their arguments, by raising, and by what they return."""

from __future__ import annotations

import math
from typing import Any

import pytest

from posttrain import registry
from posttrain.errors import ConfigError, RewardError
from posttrain.rewards.base import RewardSet
from posttrain.types import Example, Sample, Task, Trace, TraceGroup


def group(*texts: str, chat: bool = False, **columns: Any) -> TraceGroup:
    prompt: Any = [{"role": "user", "content": "q"}] if chat else "q"
    example = Example(prompt, " 1", "1", columns, id="e")
    return TraceGroup(
        example,
        (1,),
        [Trace.of_sample((1,), Sample([1, 2], [0.0] * 2, [0.0] * 2, "stop"), t) for t in texts],
    )


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in registry.rewards.names():
        registry.rewards.get(name)
    monkeypatch.setattr(registry.rewards, "_functions", dict(registry.rewards._functions))
    return registry.rewards.register


# -- arguments


def test_nothing_a_reward_does_to_its_arguments_stays(register: Any) -> None:
    @register
    def vandal(prompts, completions, completion_ids, answer, examples, task, tests):
        """Changes all it gets."""
        for ids, prompt, completion, example, test in zip(
            completion_ids, prompts, completions, examples, tests
        ):
            ids.pop()
            ids.clear()
            prompt[0]["content"] = "changed"
            completion[0]["content"] = "changed"
            example.prompt.clear()
            example.columns.clear()
            test["cases"].append(3)
        task.examples[0].prompt.clear()
        count = len(completions)
        for inputs in (prompts, completions, completion_ids, answer, examples, tests):
            inputs.clear()
        return [1.0] * count

    @register
    def witness(prompts, completions, completion_ids, tests):
        """What the next reward sees."""
        assert (
            prompts == [[{"role": "user", "content": "q"}]] * 2 and completion_ids == [[1, 2]] * 2
        )
        assert (
            completions[0] == [{"role": "assistant", "content": "a"}]
            and tests == [{"cases": [1, 2]}] * 2
        )
        return [1.0] * 2

    made = group("a", "b", chat=True, tests={"cases": [1, 2]})
    task = Task("t", [made.example], lambda text, e: 1.0, lambda text: text)
    RewardSet([("vandal", 1.0, {}), ("witness", 1.0, {})], task=task).reward([made])
    assert [r.reward for r in made.traces] == [2.0, 2.0]
    assert made.example == group(chat=True, tests={"cases": [1, 2]}).example
    assert [r.sample.ids for r in made.traces] == [[1, 2]] * 2


# -- exceptions


def test_an_exception_is_of_its_completion_alone(register: Any) -> None:
    calls: list[int] = []

    @register
    def picky(completions):
        """Raises on one text."""
        calls.append(len(completions))
        return [float(text) for text in completions]

    made = group("1", "x", "3", "4")
    rewards = RewardSet([("picky", 1.0, {})])
    rewards.reward([made])
    assert [r.reward for r in made.traces] == [1.0, None, 3.0, 4.0]
    assert (
        made.traces[1].error is not None and "ValueError: could not convert" in made.traces[1].error
    )
    assert rewards.failures == {"picky": 1} and calls == [4, 1, 1, 1, 1, 3]
    calls.clear()
    rewards.reward([group("1", "2")])
    assert calls == [2]  # a call that works is the only one


def test_a_reward_that_compares_completions_compares_the_rest(register: Any) -> None:
    @register
    def relative(completions):
        """Deviation from the mean of the batch."""
        values = [float(text) for text in completions]
        mean = sum(values) / len(values)
        return [v - mean for v in values]

    made = group("1", "bad", "3")
    RewardSet([("relative", 1.0, {})]).reward([made])
    assert [r.reward for r in made.traces] == [-1.0, None, 1.0]


def test_a_run_stops_above_the_stated_share(register: Any) -> None:
    @register
    def picky(completions):
        """Raises on a text."""
        return [float(text) for text in completions]

    settings = [("picky", 1.0, {})]
    RewardSet(settings).reward([group("1", "x")])
    with pytest.raises(
        RewardError,
        match=r"(?s)'picky' failed on 2 of 3 .*max_failed_rewards=0.5.*posttrain resume",
    ):
        RewardSet(settings).reward([group("1", "x", "y")])
    RewardSet(settings, max_failed=0.9).reward([group("1", "x", "y")])
    with pytest.raises(RewardError, match="failed on 2 of 2"):
        RewardSet(settings, max_failed=1.0).reward([group("x", "y")])
    with pytest.raises(ConfigError, match="max_failed_rewards: 1.5 must be between 0 and 1"):
        RewardSet(settings, max_failed=1.5)
    with pytest.raises(ConfigError, match="reward_timeout_seconds: -1 must be 0"):
        RewardSet(settings, timeout_seconds=-1)


def test_a_search_goes_on_after_a_failure_and_stops_where_most_fail(register: Any) -> None:
    @register
    def picky(completions):
        """Raises on a text."""
        return [float(text) for text in completions]

    rewards = RewardSet([("picky", 1.0, {})])
    example = Example("p", None, "1", {}, id="e")

    def score(*texts: str) -> list[float]:
        return rewards.score(
            example, [Trace.of_sample((1,), Sample([], [], [], "stop"), text) for text in texts]
        )

    assert score("x") == [-math.inf] and score("2", "x") == [2.0, -math.inf]
    with pytest.raises(RewardError, match="'picky' failed on 31 of 32"):
        for _ in range(40):
            score("x")


class Cancelled(BaseException):
    """Not an Exception."""


@pytest.mark.parametrize(
    "error", [SystemExit(0), Cancelled("x"), GeneratorExit(), RecursionError(), MemoryError()]
)
def test_no_exception_ends_the_process(register: Any, error: BaseException) -> None:
    @register
    def leaves(completions):
        """Raises what is no Exception."""
        if "bad" in completions:
            raise error
        return [1.0] * len(completions)

    made = group("a", "bad", "c")
    RewardSet([("leaves", 1.0, {})]).reward([made])
    assert [r.reward for r in made.traces] == [1.0, None, 1.0]
    assert type(error).__name__ in str(made.traces[1].error)
    with pytest.raises(RewardError, match=f"failed on 1 of 1 .*{type(error).__name__}"):
        RewardSet([("leaves", 1.0, {})]).reward([group("bad")])


def test_ctrl_c_is_no_failure(register: Any) -> None:
    @register
    def stopped(completions):
        """As if the user had pressed Ctrl-C."""
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        RewardSet([("stopped", 1.0, {})]).reward([group("a", "b")])
