"""SkyRL-gym's protocol."""

from __future__ import annotations

from typing import Any

from posttrain.episodes.adapters.skyrl import SkyRL
from posttrain.types import Message


class Echo:
    def __init__(self, extras: dict[str, Any]) -> None:
        self.answer, self.turns, self.closed = extras["answer"], 0, False

    def init(self, prompt: list[Message]) -> tuple[list[Message], dict[str, Any]]:
        return [{"role": "system", "content": "Be brief."}, *prompt], {}

    def step(self, action: str) -> dict[str, Any]:
        self.turns += 1
        right = action == self.answer
        said = [] if right else [{"role": "user", "content": f"not {action}"}]
        return {"observations": said, "reward": float(right), "done": right, "metadata": {}}

    def get_metrics(self) -> dict[str, Any]:
        return {"turns": self.turns, "name": "echo"}

    def close(self) -> None:
        self.closed = True


def test_skyrl() -> None:
    environment = SkyRL(Echo)
    assert environment.owns_prompt
    first = environment.reset(prompt="2+3?", answer="5", seed=1)
    assert [m["role"] for m in first] == ["system", "user"]
    step = environment.step("6")
    assert step.observation == [{"role": "user", "content": "not 6"}]
    assert (step.reward, step.done, step.metrics) == (0.0, False, {"turns": 1.0})
    step = environment.step("5")
    assert (step.reward, step.done, step.observation) == (1.0, True, [])
    environment.close()
    assert environment.environment.closed
    SkyRL(Echo).close()
