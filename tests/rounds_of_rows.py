"""A loop whose rounds train on the same rows."""

from __future__ import annotations

from typing import Any

from rich.console import Console

import posttrain as pt
from posttrain.training.plan import AdamW, PreparedLoop, Rounds

QUIET = Console(quiet=True)
ROWS = [{"prompt": f"{a}+2=", "completion": f" {a + 2}"} for a in range(3, 19)]


def plan(schedule: Any = "cosine", learning_rate: float = 1e-3) -> pt.Plan:
    return pt.sft(ROWS, learning_rate=learning_rate, batch_size=4, lr_scheduler_type=schedule)


def loop(restart: bool = False, num_steps: int = 2, **settings: Any) -> pt.Loop:
    """Rounds over the same rows."""
    one = plan(**settings)

    def prepare(spec: Any, seed: int, steps: int | None) -> PreparedLoop:
        total = steps or 6

        def run(rounds: Rounds) -> None:
            while rounds.step < total:
                rounds.fit(one, steps=min(num_steps, total - rounds.step), restart=restart)

        return PreparedLoop(steps=total, run=run, facts=[], restarts=restart)

    optimizer = AdamW(one.optimizer.learning_rate, one.optimizer.lr_scheduler_type)
    return pt.Loop(method="rounds", prepare=prepare, optimizer=optimizer, settings=settings)


def numbers(rows: Any) -> list[dict[str, float]]:
    """Metrics without those that depend on the machine."""
    timed = ("step_time", "tokens_per_second", "memory/peak_mib")
    return [{k: v for k, v in row.items() if k not in timed} for row in rows]
