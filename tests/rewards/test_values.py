"""Values that a reward may return, and those that count as failures."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from posttrain import registry
from posttrain.errors import RewardError
from posttrain.rewards.base import RewardSet
from posttrain.types import Example, Sample, Trace, TraceGroup


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


# -- returned values


class Unconvertible:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __float__(self) -> float:
        raise self.error


def raising(count: int) -> Any:
    yield from [1.0] * (count - 1)
    raise RuntimeError("in the generator")


RECORDED: list[tuple[Any, str]] = [
    (10**400, "OverflowError"),
    (-(10**5000), "OverflowError"),
    (math.inf, "returned inf"),
    (np.nan, "returned nan"),
    (Unconvertible(RuntimeError("no")), "RuntimeError: no"),
    (Unconvertible(SystemExit(0)), "SystemExit"),
    (TimeoutError("late"), "TimeoutError: late"),
    ([1.0, math.nan], "step 2: returned nan"),
    ([None], "step 1: returned None"),
]


@pytest.mark.parametrize(("value", "text"), RECORDED, ids=[text for _, text in RECORDED])
def test_values_that_are_recorded(register: Any, value: Any, text: str) -> None:
    @register
    def odd(completions):
        """One odd value."""
        return [1.0, value, 2]

    made = group("a", "b", "c")
    RewardSet([("odd", 1.0, {})]).reward([made])
    assert [r.reward for r in made.traces] == [1.0, None, 2.0]
    assert text in str(made.traces[1].error) and made.traces[1].rewards == {"odd": None}


REFUSED: list[tuple[str, Callable[[int], Any], str]] = [
    ("dict", lambda n: dict.fromkeys(range(n), 1.0), "dict, which gives no order"),
    ("set", lambda n: set(range(n)), "set, which gives no order"),
    ("keys", lambda n: dict.fromkeys(range(n), 1.0).keys(), "which gives no order"),
    ("digits", lambda n: "1" * n, "which is text"),
    ("bytes", lambda n: b"1" * n, "which is text"),
    ("number", lambda n: 1.0, "returned float for 2 completions"),
    ("none", lambda n: None, "returned NoneType for 2 completions"),
    ("0-d array", lambda n: np.array(1.0), "returned ndarray for 2 completions"),
    ("0-d tensor", lambda n: torch.tensor(1.0), "returned Tensor for 2 completions"),
    ("texts", lambda n: ["1"] * n, "'1', which is not a number"),
    ("byte texts", lambda n: [b"1"] * n, "which is not a number"),
    ("matrix", lambda n: np.ones((n, 3)), "which is not a number"),
    ("objects", lambda n: [object()] * n, "which is not a number"),
    ("dicts", lambda n: [{}] * n, "which is not a number"),
    ("complex", lambda n: [1j] * n, "which is not a number"),
    ("short", lambda n: [1.0], "returned 1 for 2 completions"),
    ("long", lambda n: [1.0] * 5, "returned 5 for 2 completions"),
    ("endless", lambda n: iter(int, 1), "returned more than 2 for 2 completions"),
]


@pytest.mark.parametrize(("make", "text"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED])
def test_values_that_are_refused(register: Any, make: Callable[[int], Any], text: str) -> None:
    @register
    def odd(completions):
        """Returns no list of numbers."""
        return make(len(completions))

    with pytest.raises(RewardError, match=text):
        RewardSet([("odd", 1.0, {})]).reward([group("a", "b")])


@pytest.mark.parametrize(
    "make",
    [
        lambda n: np.ones(n),
        lambda n: torch.ones(n),
        lambda n: torch.ones(n, 1),
        lambda n: (1.0 for _ in range(n)),
        lambda n: [True] * n,
        lambda n: [np.float32(1)] * n,
        lambda n: dict.fromkeys(range(n), 1).values(),
    ],
)
def test_values_that_are_numbers(register: Any, make: Callable[[int], Any]) -> None:
    @register
    def fair(completions):
        """Returns numbers."""
        return make(len(completions))

    made = group("a", "b")
    RewardSet([("fair", 1.0, {})]).reward([made])
    assert [r.reward for r in made.traces] == [1.0, 1.0]


def test_a_generator_that_raises_has_failed(register: Any) -> None:
    @register
    def lazy(completions):
        """Raises while it is read."""
        return raising(len(completions))

    with pytest.raises(RewardError, match="failed on 2 of 2 .*RuntimeError: in the generator"):
        RewardSet([("lazy", 1.0, {})]).reward([group("a", "b")])
