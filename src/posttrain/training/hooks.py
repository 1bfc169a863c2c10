"""What is written down after each step."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from posttrain.training.checkpoint import write_text_whole
from posttrain.types import RolloutGroup, plain_text


class Hook(Protocol):
    """Called after each step with the number of steps done and the step's metrics.

    A plain function will do. One that holds something open also has a `close()`, which is called
    once when training ends, also when it ends by an error.
    """

    def __call__(self, step: int, metrics: dict[str, float], /) -> None: ...


class _Lines:
    """A JSON-lines file that grows by whole lines; going on with a run drops the lines past its
    checkpoint.
    """

    def __init__(self, path: Path, resume_step: int) -> None:
        if path.exists():
            # Only "\n" ends a line: str.splitlines would also cut at separators that a completion
            # may hold.
            lines = (
                path.read_bytes().decode("utf-8", errors="replace").split("\n")
                if resume_step
                else []
            )
            write_text_whole(
                path, "".join(f"{line}\n" for line in lines if _step_of(line) <= resume_step)
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        # Half of a surrogate pair cannot be encoded; as a backslash escape it is still valid JSON.
        self._file = path.open("a", encoding="utf-8", errors="backslashreplace", newline="\n")

    def write(self, values: dict[str, Any]) -> None:
        """Add a line; it is with the operating system when this returns, so that a killed
        process loses none.
        """
        self._file.write(json.dumps(values, ensure_ascii=False, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf  # a line that a killed run left half written


def finite(value: float | None) -> float | None:
    """NaN and infinity have no place in JSON: they become null."""
    return float(value) if value is not None and math.isfinite(value) else None


class MetricsWriter:
    """metrics.jsonl: one object a step.

    Args:
        resume_step: lines past this step are dropped first; 0 starts the file anew.
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
        groups: gives the last step's groups. resume_step: as in MetricsWriter. every: steps from
        one that is written to
            the next (the first is always written). max_groups: of a step that are kept.
    """

    def __init__(
        self,
        path: Path,
        groups: Callable[[], list[RolloutGroup]],
        *,
        resume_step: int = 0,
        every: int = 1,
        max_groups: int = 4,
    ) -> None:
        self._lines = _Lines(path, resume_step)
        self._groups = groups
        self._every = max(every, 1)
        self._max_groups = max_groups

    def __call__(self, step: int, metrics: dict[str, float]) -> None:
        if step == 1 or step % self._every == 0:
            for group in self._groups()[: self._max_groups]:
                self._lines.write(group_as_json(step, group))

    def close(self) -> None:
        self._lines.close()


def group_as_json(step: int, group: RolloutGroup) -> dict[str, Any]:
    """A line of rollouts.jsonl."""
    return {
        "step": step,
        "id": group.example.id,
        "prompt": plain_text(group.example.prompt),
        "answer": None if group.example.answer is None else str(group.example.answer),
        "completions": [
            {
                "text": r.text,
                "reward": finite(r.reward),
                "rewards": {name: finite(v) for name, v in r.rewards.items()},
                "advantage": finite(r.advantage),
                "num_tokens": len(r.sample.ids),
                "finish_reason": r.sample.finish_reason,
                "error": r.error,
            }
            for r in group.rollouts
        ],
    }


def first_rollout(source: Any) -> tuple[str, str, float | None] | None:
    """Prompt, completion and reward of the first that a source sampled in this step, for the
    progress display.
    """
    if not source.groups:
        return None
    group = source.groups[0]
    return plain_text(group.example.prompt), group.rollouts[0].text, group.rollouts[0].reward
