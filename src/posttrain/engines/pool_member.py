"""A server of a pool, and what has become of it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal

from posttrain.engines.launch import LaunchedServer
from posttrain.engines.served import ServedEngine
from posttrain.errors import ServerLost


@dataclass(slots=True)
class Member:
    """A server of a pool.

    connect: makes the engine of the server as it is now. launched: its process, where the run has
    started it. state: "alive", "restarting", "away" (not ours to restart), or "gone" (given up).
    """

    connect: Callable[[], ServedEngine]
    engine: ServedEngine
    launched: LaunchedServer | None = None
    state: Literal["alive", "restarting", "away", "gone"] = "alive"
    num_restarts: int = 0
    restart: Future[None] | None = None
    reason: str = ""
    tickets: dict[int, int] = field(default_factory=dict)
    """Of the pool, by those of the engine."""

    @property
    def answers(self) -> bool:
        """Whether the server can be reached."""
        try:
            self.engine.server.client.get("/health", timeout=1.0, max_retries=0)
        except ServerLost:
            return False
        return True
