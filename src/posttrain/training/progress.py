"""Progress of a run: a live panel on a terminal, one updating line in a notebook, and plain
lines from time to time elsewhere (a pipe, a file, CI).
"""

from __future__ import annotations

import io
import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from posttrain.terminal import NotebookLine, is_live, visible, write, write_table
from posttrain.training.panel import History, Sampled, panel, sample_lines
from posttrain.world import World

# Steps that the pace is measured over: enough to be calm, few enough to follow a change.
_PACE_STEPS = 30
_SILENT_SECONDS = 60.0
_MAX_LINE = 80  # characters of a plain line


def console_of(world: World, console: Console | None = None) -> Console:
    """Where a process prints: the console given, or the standard output. Of several processes the
    main one alone prints.
    """
    if world.is_main:
        return console or Console()
    return Console(quiet=True, file=io.StringIO())


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class _Pace:
    """Elapsed and remaining time of work that is counted."""

    def __init__(self, total: int, done: int) -> None:
        self.total = total
        self._points: deque[tuple[float, int]] = deque(maxlen=_PACE_STEPS)
        self.restart(done)

    def restart(self, done: int) -> None:
        self.began = time.monotonic()
        self._points.clear()
        self._points.append((self.began, done))

    def add(self, done: int) -> None:
        self._points.append((time.monotonic(), done))

    def texts(self) -> list[str]:
        """The elapsed time, and the time that is left once a pace is known."""
        (first, before), (last, after) = self._points[0], self._points[-1]
        parts = [duration(time.monotonic() - self.began)]
        if before < after < self.total:
            left = (last - first) / (after - before) * (self.total - after)
            parts.append(f"ETA {duration(left)}")
        return parts


class _Lines:
    """Where lines of progress go: one updating line in a notebook, else a line now and then."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._notebook = NotebookLine() if console.is_jupyter else None
        self._printed = time.monotonic()

    def show(self, text: str, *, due: bool, last: bool) -> None:
        """Show the state of the work. due: a plain line is worth printing. last: it has ended."""
        if self._notebook is not None:
            self._notebook.update(text, last=last)
        elif due or time.monotonic() - self._printed >= _SILENT_SECONDS:
            self._printed = time.monotonic()
            write(self.console, visible(text))


def _is_due(done: int, start: int, total: int) -> bool:
    """Whether a plain line is printed: the first step, the last, and each tenth."""
    return done in (start + 1, total) or done % max(total // 10, 1) == 0


class Progress:
    """Progress of training: a hook and a context manager.

    On a terminal one panel is redrawn in place. In a notebook one line is updated. Elsewhere (a
    file, CI), with NO_COLOR, on a dumb terminal or one that cannot show Unicode, it prints plain
    lines: the first step, the last, each tenth of the run, and at least one per minute.

    Args:
        steps: of the whole run. start: steps that were done before. sampled: returns a completion
        to show, or None.
    """

    def __init__(
        self,
        steps: int,
        *,
        title: str,
        console: Console,
        start: int = 0,
        sampled: Callable[[], Sampled | None] | None = None,
    ) -> None:
        self.steps = steps
        self.title = title
        self.console = console
        self.step = self.start = start
        self.sampled = sampled
        self.history = History()
        self._sample: Sampled | None = None
        self._height = 0
        self._pace = _Pace(steps, start)
        self._lines = _Lines(console)
        self._live: Live | None = None

    def __enter__(self) -> Progress:
        self._pace.restart(self.step)
        if is_live(self.console):
            self._live = Live(self, console=self.console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def close(self) -> None:
        """Stop; the last state stays visible, once: lines that were printed between (Ctrl-C) leave
        no copies of the panel.
        """
        if self._live is not None:
            self._live.stop()
            self._live = None
            write_table(self.console, self)

    def __call__(self, step: int, metrics: dict[str, float]) -> None:
        self.history.add(metrics)
        self._pace.add(step)
        if self._live is not None and self.sampled is not None:
            # Here and not while drawing, which happens in a thread of its own.
            self._sample = self.sampled()
        self.step = step
        if self._live is None:
            due = _is_due(step, self.start, self.steps)
            wide = self.console.is_jupyter
            self._lines.show(
                self.line(None if wide else _MAX_LINE), due=due, last=step == self.steps
            )

    def line(self, limit: int | None = None) -> str:
        """The state of the run as one plain line.

        Args:
            limit: characters that it may have. The metrics that come last are left out first, but
                for two, and then the speed.
        """
        where = f"{self.title} {self.step}/{self.steps}"
        times, metrics = self._times(), self.history.line()
        while limit is not None and len("  ".join([where, *times, *metrics])) > limit:
            if len(metrics) > 2:
                metrics.pop()
            elif len(times) > 2:
                times.pop()
            else:
                break
        return "  ".join([where, *times, *metrics])

    def _times(self) -> list[str]:
        speed = self.history.metrics.get("tokens_per_second", 0.0)
        shows_speed = speed > 0 and math.isfinite(speed)
        return [*self._pace.texts(), *([f"{speed:,.0f} tokens/s"] if shows_speed else [])]

    def __rich__(self) -> Panel:
        width = self.console.width
        sample = sample_lines(self._sample, width) if self._sample is not None else []
        # The panel grows but never shrinks, so that it does not jump with the length of the text.
        self._height = max(self._height, len(sample))
        sample += [Text("")] * (self._height - len(sample))
        return panel(
            self.title,
            step=self.step,
            steps=self.steps,
            times="   ".join(self._times()),
            history=self.history,
            sample=sample,
            width=width,
        )


class ItemProgress:
    """Progress of work on a known number of items, such as the problems of an evaluation.

    A context manager and a function of the number of items that are done:

        with ItemProgress(300, title="evaluation", unit="problems", console=console) as progress:
            evaluate(..., progress=progress)        # which calls progress(12), progress(40), ...

    It is shown where `Progress` is: on a terminal as one line with a bar that is redrawn in place,
    in a notebook as one updating line, elsewhere as a line now and then. It may be called from any
    thread, with numbers in any order; a smaller one than before changes nothing.
    """

    def __init__(self, total: int, *, title: str, console: Console, unit: str = "problems") -> None:
        self.total = total
        self.title = title
        self.unit = unit
        self.console = console
        self.done = 0
        self._pace = _Pace(total, 0)
        self._lines = _Lines(console)
        self._live: Live | None = None

    def __enter__(self) -> ItemProgress:
        self._pace.restart(self.done)
        if is_live(self.console):
            self._live = Live(self, console=self.console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def close(self) -> None:
        """Stop. On a terminal the line is removed: the result follows."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __call__(self, done: int) -> None:
        before, self.done = self.done, max(self.done, min(done, self.total))
        if self.done == before:
            return
        self._pace.add(self.done)
        if self._live is None:
            # Many items may end at once: a line is due when a tenth of the work is passed.
            tenth = max(self.total // 10, 1)
            due = self.done == self.total or before // tenth != self.done // tenth
            self._lines.show(self.line(), due=due, last=self.done == self.total)

    def line(self) -> str:
        """The state as one plain line: "evaluation 40/300 problems  0:12  ETA 1:18"."""
        where = f"{self.title} {self.done}/{self.total} {self.unit}"
        return "  ".join([where, *self._pace.texts()])

    def __rich__(self) -> Text:
        share = self.done / self.total if self.total else 1.0
        size = max(min(30, self.console.width - len(self.line()) - 3), 0)
        filled = round(size * share)
        bar = Text("━" * filled, style="cyan").append("━" * (size - filled), style="dim")
        line = bar.append("  " if size else "").append(visible(self.line()), style="")
        line.truncate(self.console.width, overflow="ellipsis")
        return line
