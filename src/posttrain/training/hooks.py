"""Hooks: functions called after each training step. These write its metrics and rollouts."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.console import Console

from posttrain.report.turns import Part, has_turns, parts_of, turns_as_json
from posttrain.sources.staleness import version_spans
from posttrain.terminal import write
from posttrain.training.checkpoint import write_text_whole
from posttrain.types import Trace, TraceGroup, plain_text


class Hook(Protocol):
    """Called after each step with the number of steps done and the step's metrics.

    A plain function is a hook. One that holds a file open also has a `close()`, which is called
    once when training ends, also when it ends with an error.
    """

    def __call__(self, step: int, metrics: dict[str, float], /) -> None: ...


class _Lines:
    """A JSON-lines file that grows by whole lines. A resumed run drops the lines after its
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
        """Add a line and flush it, so that a killed process loses none."""
        self._file.write(json.dumps(values, ensure_ascii=False, allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf  # a killed run left this line half written


def finite(value: float | None) -> float | None:
    """The value as a float; None for NaN and infinity, which JSON cannot hold."""
    return float(value) if value is not None and math.isfinite(value) else None


class MetricsWriter:
    """metrics.jsonl: one object per step.

    Args:
        resume_step: lines after this step are dropped first; 0 starts a new file.
    """

    def __init__(self, path: Path, *, resume_step: int = 0) -> None:
        self._lines = _Lines(path, resume_step)

    def __call__(self, step: int, metrics: dict[str, float]) -> None:
        self._lines.write({"step": step, **{k: finite(v) for k, v in metrics.items()}})

    def close(self) -> None:
        self._lines.close()


class RolloutWriter:
    """rollouts.jsonl: one object per prompt, with its completions, rewards and advantages.

    Args:
        groups: returns the groups of the last step. resume_step: as in MetricsWriter.
        every: steps between two that are written; the first step is always written.
        max_groups: groups written per step.
    """

    def __init__(
        self,
        path: Path,
        groups: Callable[[], list[TraceGroup]],
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


def group_as_json(step: int, group: TraceGroup) -> dict[str, Any]:
    """A line of rollouts.jsonl."""
    return {
        "step": step,
        "id": group.example.id,
        "prompt": plain_text(group.example.prompt),
        "answer": None if group.example.answer is None else str(group.example.answer),
        "completions": [trace_as_json(trace) for trace in group.traces],
    }


def trace_as_json(trace: Trace) -> dict[str, Any]:
    """A completion of a line of rollouts.jsonl; an episode has its turns too.

    weights_versions, where an engine reports them: [version, start, end] of sampled tokens.
    """
    values: dict[str, Any] = {
        "text": trace.text,
        "reward": finite(trace.reward),
        "rewards": {name: finite(v) for name, v in trace.rewards.items()},
        "advantage": finite(trace.advantage),
        "num_tokens": trace.num_sampled,
        "finish_reason": trace.finish_reason,
        "error": trace.error,
    }
    if any(turn.sample.version_spans for turn in trace.turns):
        values["weights_versions"] = [list(span) for span in version_spans(trace)]
    if has_turns(trace):
        values |= {"stop_reason": trace.stop_reason, "turns": turns_as_json(trace)}
    return values


def first_rollout(source: Any) -> tuple[str, str | list[Part], float | None] | None:
    """Prompt, completion and reward of the first rollout of this step, for the progress display;
    None where the source sampled nothing. Of an episode what was said in it.
    """
    if not source.groups:
        return None
    group = source.groups[0]
    trace = group.traces[0]
    text = parts_of(trace) if has_turns(trace) else trace.text
    return plain_text(group.example.prompt), text, trace.reward


def watch_hooks(source: Any, state: Any, console: Console) -> list[Hook]:
    """The hook that prints a source's alarms and ends the run by its rule, where it is watched.

    Args:
        state: a `training.loop.State`. A run that had been ended before it was resumed stays so.
    """
    watch = getattr(source, "watch", None)
    if watch is None:
        return []
    state.ended = watch.ended

    def look(step: int, metrics: dict[str, float]) -> None:
        for text in watch.take_alarms():
            write(console, f"step {step}: watch: {text}", style="yellow")
        if watch.ended:
            write(console, f"ended after step {step} by watch.stop_on: {watch.ended}")
            state.stop, state.ended = True, watch.ended

    return [look]


def add_peak_memory(step: int, metrics: dict[str, float]) -> None:
    """A hook that adds memory/peak_mib: the largest memory in use so far, in MiB.

    With CUDA it is the memory that torch has allocated on all devices together, else the resident
    memory of the process, which counts the libraries and the data too. It only reads counters, in
    about a microsecond. Where the system has no such counter, nothing is added.
    """
    peak = _peak_memory()
    if peak is not None:
        metrics["memory/peak_mib"] = peak / 2**20


def optimizer_memory(optimizer: Any) -> Hook:
    """A hook that adds memory/optimizer_mib: moments, float32 copies of bfloat16 weights and the
    average of weights, together, in MiB.
    """

    def add(step: int, metrics: dict[str, float]) -> None:
        metrics["memory/optimizer_mib"] = sum(optimizer.memory.values()) / 2**20

    return add


def _peak_memory() -> float | None:
    """Bytes."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        devices = range(torch.cuda.device_count())
        return float(sum(torch.cuda.max_memory_allocated(device) for device in devices))
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else peak * 1024)  # Linux counts in KiB
