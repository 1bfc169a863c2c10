"""What is written down after each step."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from posttrain.training.checkpoint import write_text_whole
from posttrain.types import RolloutGroup, plain_text

Hook = Callable[[int, dict[str, float]], None]
"""Called after each step with the number of steps done and the step's metrics; may have a `close()`."""


class _Lines:
    """A JSON-lines file that grows by whole lines; going on with a run drops the lines past its checkpoint."""

    def __init__(self, path: Path, resume_step: int) -> None:
        if path.exists():
            kept = [line for line in path.read_text(encoding="utf-8").splitlines() if _step_of(line) <= resume_step]
            write_text_whole(path, "".join(f"{line}\n" for line in kept))
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")

    def write(self, values: dict[str, Any]) -> None:
        """Add a line; it is on its way to the disk when this returns."""
        self._file.write(json.dumps(values, ensure_ascii=False, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf  # a line that a killed run left half written


def finite(value: float) -> float | None:
    """NaN and infinity have no place in JSON: they become null."""
    return value if math.isfinite(value) else None


class MetricsWriter:
    """metrics.jsonl: one object a step.

    Args:
        resume_step: lines past this step are dropped first.
    """

    def __init__(self, path: Path, *, resume_step: int = 0) -> None:
        self._lines = _Lines(path, resume_step)

    def __call__(self, step: int, metrics: dict[str, float]) -> None:
        self._lines.write({"step": step, **{k: finite(v) for k, v in metrics.items()}})

    def close(self) -> None:
        self._lines.close()


class RolloutWriter:
    """rollouts.jsonl: one object a prompt, with its completions, rewards and advantages.

    Args:
        groups: gives the last step's groups. max_groups: of a step that are kept.
    """

    def __init__(
        self, path: Path, groups: Callable[[], list[RolloutGroup]], *, resume_step: int = 0, max_groups: int = 4
    ) -> None:
        self._lines = _Lines(path, resume_step)
        self._groups = groups
        self._max_groups = max_groups

    def __call__(self, step: int, metrics: dict[str, float]) -> None:
        for group in self._groups()[: self._max_groups]:
            self._lines.write(
                {
                    "step": step,
                    "id": group.example.id,
                    "prompt": plain_text(group.example.prompt),
                    "answer": None if group.example.answer is None else str(group.example.answer),
                    "completions": [
                        {
                            "text": r.text,
                            "reward": r.reward,
                            "rewards": r.rewards,
                            "advantage": r.advantage,
                            "num_tokens": len(r.sample.ids),
                            "finish_reason": r.sample.finish_reason,
                            "error": r.error,
                        }
                        for r in group.rollouts
                    ],
                }
            )

    def close(self) -> None:
        self._lines.close()
