"""SkyRL-gym: `init(prompt) -> (messages, info)`, `step(text) -> {"observations": messages,
"reward", "done", "metadata"}`, `close()`, `get_metrics()`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from posttrain.episodes.environments import Step, TextEnvironment
from posttrain.types import Message


class SkyRL(TextEnvironment):
    """An environment of SkyRL-gym.

        environment = lambda: SkyRL(lambda row: skyrl_gym.make("gsm8k", extras=row))

    Args:
        make: makes the environment of a row; rows are what SkyRL calls extras.
    """

    owns_prompt = True

    def __init__(self, make: Callable[[dict[str, Any]], Any]) -> None:
        self.make = make
        self.environment: Any = None

    def reset(self, **row: Any) -> list[Message]:
        """The first messages, from the row's prompt."""
        prompt = row.get("prompt") or []
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        self.environment = self.make(row)
        first, _ = self.environment.init([dict(m) for m in messages])
        return list(first)

    def step(self, action: str) -> Step:
        """One step; the metrics are those of the environment so far."""
        output = self.environment.step(action)
        metrics: dict[str, Any] = getattr(self.environment, "get_metrics", dict)() or {}
        numbers = {k: float(v) for k, v in metrics.items() if isinstance(v, bool | int | float)}
        reward, done = float(output["reward"]), bool(output["done"])
        return Step([dict(m) for m in output["observations"]], reward, done, numbers)

    def close(self) -> None:
        """Close the environment."""
        if self.environment is not None:
            self.environment.close()
