"""Shapes of environments: their tools, their rows, their rewards."""

from __future__ import annotations

from typing import Any

import pytest

from posttrain.episodes.environments import (
    Step,
    TextEnvironment,
    ToolEnvironment,
    as_conversation,
    as_reward,
    row_of,
    taken,
    tool_methods,
)
from posttrain.errors import ConfigError, EpisodeError
from posttrain.types import Example, Message


class Door:
    @property
    def broken(self) -> int:
        raise AssertionError("properties are not read")

    def reset(self) -> None: ...
    def open(self) -> str: ...
    def done(self) -> bool: ...
    def get_reward(self) -> float: ...
    def close(self) -> None: ...
    def _hidden(self) -> None: ...


def test_public_methods_are_tools() -> None:
    assert [m.__name__ for m in tool_methods(Door())] == ["open"]

    class WithoutReset:
        pass

    with pytest.raises(ConfigError, match="reset"):
        tool_methods(WithoutReset())


def test_a_row_for_reset() -> None:
    example = Example("p", answer="a", columns={"seed": 3, "x": 1})
    assert row_of(example, 9) == {"prompt": "p", "seed": 3, "x": 1, "answer": "a"}
    assert row_of(Example("p"), 9) == {"prompt": "p", "seed": 9}

    def some(x: int) -> None: ...
    def all_of_them(**row: Any) -> None: ...

    assert taken(some, row_of(example, 9)) == {"x": 1}
    assert taken(all_of_them, row_of(example, 9)) == row_of(example, 9)


def test_rewards_are_finite_numbers() -> None:
    import numpy as np

    assert as_reward(None) is None and as_reward(True) == 1.0 and as_reward(np.float32(0.5)) == 0.5
    for wrong in ("much", [], float("inf"), float("nan")):
        with pytest.raises(EpisodeError):
            as_reward(wrong)


def test_what_a_text_environment_may_leave_out() -> None:
    class Silent(TextEnvironment):
        def reset(self, **row: Any) -> None: ...

        def step(self, action: str) -> Step:
            return Step(None)

    class Toolless(ToolEnvironment):
        def reset(self, **row: Any) -> None: ...

        def tools(self) -> list[Any]:
            return []

    environment = Silent()
    assert environment.get_reward() is None and not environment.owns_prompt
    environment.close()
    tools = Toolless()
    assert tools.get_reward() is None and not tools.done and tools.metrics == {}
    tools.wrote({"role": "assistant", "content": "a"})
    tools.close()
    assert Step(None).reward is None and not Step("a").done


@pytest.mark.parametrize(
    ("base", "missing"),
    [(TextEnvironment, "step"), (ToolEnvironment, "tools")],
)
def test_an_environment_without_a_part_cannot_begin(base: type, missing: str) -> None:
    half = type("Half", (base,), {"reset": lambda self, **row: None})
    with pytest.raises(TypeError, match=missing):
        half()


def test_what_an_environment_says_first() -> None:
    assert as_conversation("a", None) == [{"role": "user", "content": "a"}]
    assert as_conversation("a", " b") == [{"role": "user", "content": "a b"}]
    system: Message = {"role": "system", "content": "s"}
    assert as_conversation([system], "b") == [system, {"role": "user", "content": "b"}]
    assert as_conversation("a", [system]) == [{"role": "user", "content": "a"}, system]
    parts = [{"type": "text", "text": "a"}]
    (message,) = as_conversation([{"role": "user", "content": parts}], "b")
    assert message["content"] == [*parts, {"type": "text", "text": "b"}]
    assert parts == [{"type": "text", "text": "a"}]
