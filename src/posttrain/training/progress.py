"""A run's progress on the terminal: live where there is one, a line now and then where there is
not.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from posttrain.terminal import styled, visible, write

Sampled = tuple[str, str, float | None]
"""A prompt, a completion, its reward."""

_BLOCKS = "▁▂▃▄▅▆▇█"
_SHOWN = {
    "loss": "loss",
    "eval_loss": "held-out loss",
    "reward": "reward",
    "kl": "kl",
    "entropy": "entropy",
    "completions/mean_length": "length",
    "grad_norm": "grad norm",
    "learning_rate": "lr",
    "rewards/errors": "reward errors",
}
# Steps whose pace the remaining time is judged by: enough to be calm, few enough to follow a
# change.
_PACE_STEPS = 30
_SILENT_SECONDS = 60.0
_PROMPT_LINES, _COMPLETION_LINES = 3, 6


def sparkline(values: list[float], width: int) -> str:
    """The values as at most `width` block characters, scaled to their own range; longer
    histories are averaged.
    """
    values = [v for v in values if math.isfinite(v)]
    if len(values) < 2 or width < 2:
        return ""
    size = min(width, len(values))
    cuts = [i * len(values) // size for i in range(size + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(cuts)]
    low, high = min(means), max(means)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        return _BLOCKS[0] * size
    return "".join(
        _BLOCKS[min(int((v - low) / (high - low) * len(_BLOCKS)), len(_BLOCKS) - 1)] for v in means
    )


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Progress:
    """A hook and a context manager.

    On a terminal one panel is redrawn in place. Where there is none (a file, CI), with NO_COLOR, on
    a dumb terminal or one that cannot show Unicode, it prints plain lines: the first step, the
    last, each tenth of the run, and at least one a minute.

    Args:
        steps: of the whole run. start: steps that were done before. sampled: a completion to show,
        or None.
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
        self.metrics: dict[str, float] = {}
        self.history: dict[str, list[float]] = {}
        self._shown: Sampled | None = None
        self._height = 0
        self._began = self._printed = time.monotonic()
        self._pace: deque[tuple[float, int]] = deque(maxlen=_PACE_STEPS)
        self._live: Live | None = None

    def __enter__(self) -> Progress:
        self._began = self._printed = time.monotonic()
        self._pace.append((self._began, self.step))
        console = self.console
        live = console.is_terminal and not console.is_dumb_terminal and not console.no_color
        if live and console.encoding.lower().startswith("utf"):
            self._live = Live(self, console=console, refresh_per_second=4, transient=False)
            self._live.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()

    def close(self) -> None:
        """Leave the last picture standing."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __call__(self, step: int, metrics: dict[str, float]) -> None:
        now = time.monotonic()
        for name in _SHOWN:
            if name in metrics:
                self.history.setdefault(name, []).append(metrics[name])
        self._pace.append((now, step))
        if self._live is not None and self.sampled is not None:
            self._shown = (
                self.sampled()
            )  # here and not while drawing, which happens in a thread of its own
        self.step, self.metrics = step, metrics
        due = step in (self.start + 1, self.steps) or step % max(self.steps // 10, 1) == 0
        if self._live is None and (due or now - self._printed >= _SILENT_SECONDS):
            self._printed = now
            write(self.console, visible(self.line()))

    def line(self) -> str:
        """The state of the run as one plain line."""
        fresh = [name for name in _SHOWN if name in self.metrics and self._telling(name)]
        numbers = [f"{_SHOWN[name]} {self._value(name, ' +- ')}" for name in fresh]
        return "  ".join([f"{self.title} {self.step}/{self.steps}", *self._times(), *numbers])

    def _times(self) -> list[str]:
        parts = [duration(time.monotonic() - self._began)]
        (first, before), (last, after) = (
            self._pace[0] if self._pace else (0.0, 0),
            self._pace[-1] if self._pace else (0.0, 0),
        )
        if after > before and self.step < self.steps:
            parts.append(
                f"ETA {duration((last - first) / (after - before) * (self.steps - self.step))}"
            )
        speed = self.metrics.get("tokens_per_second", 0.0)
        return [*parts, f"{speed:,.0f} tokens/s"] if speed > 0 and math.isfinite(speed) else parts

    def _value(self, name: str, plus_minus: str) -> str:
        text = short_number(self.history[name][-1])
        spread = self.metrics.get("reward_std") if name == "reward" else None
        return text if spread is None else f"{text}{plus_minus}{short_number(spread)}"

    def __rich__(self) -> Panel:
        inner = max(self.console.width - 4, 8)
        share = self.step / self.steps if self.steps else 1.0
        where = Text(f"step {self.step} of {self.steps}", style="bold").append(
            f"  {share:.0%}", style="not bold dim"
        )
        times = Text("   ".join(self._times()), style="dim")
        head = Table.grid(expand=True)
        head.add_column(no_wrap=True)
        if len(where) + len(times) + 2 <= inner:
            head.add_column(justify="right", no_wrap=True)
            head.add_row(where, times)
        else:
            head.add_row(where)
            head.add_row(times)
        bar = Table.grid()  # a bar alone does not end its line, and would swallow the next
        bar.add_row(_bar(self.steps, self.step, inner))
        parts: list[Any] = [head, bar]
        if self.metrics:
            parts.append(self._numbers(inner))
        if self._shown is not None:
            parts += self._sample(inner, *self._shown)
        return Panel(
            Group(*parts),
            title=styled(visible(self.title)),
            title_align="left",
            border_style="dim",
            padding=(0, 1),
        )

    def _numbers(self, inner: int) -> Table:
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(no_wrap=True, justify="right")
        table.add_column(no_wrap=True, style="cyan")
        rows = [
            (name, label, self._value(name, " ± "))
            for name, label in _SHOWN.items()
            if self._telling(name)
        ]
        widest = max((len(label) for _, label, _ in rows), default=0) + max(
            (len(v) for *_, v in rows), default=0
        )
        for name, label, value in rows:
            value_text = Text(value, style="bold red" if name == "rewards/errors" else "")
            table.add_row(
                label, value_text, sparkline(self.history[name], min(inner - widest - 6, 60))
            )
        return table

    def _telling(self, name: str) -> bool:
        """Whether a metric is shown: once it was measured; failures only once there are some."""
        return name in self.history and (
            name != "rewards/errors" or any(v > 0 for v in self.history[name])
        )

    def _sample(self, inner: int, prompt: str, completion: str, reward: float | None) -> list[Any]:
        told = "no reward" if reward is None else f"reward {short_number(reward)}"
        lines = [
            Text("─" * inner, style="dim"),
            *_clipped(prompt, inner, _PROMPT_LINES, "dim"),
            *_clipped(completion, inner, _COMPLETION_LINES, ""),
            Text(told, style="green" if reward is not None and reward > 0 else "yellow"),
        ]
        # The panel grows but never shrinks, so that it does not jump with the length of what is
        # shown.
        self._height = max(self._height, len(lines))
        return lines + [Text("")] * (self._height - len(lines))


def _bar(steps: int, done: int, width: int) -> ProgressBar:
    return ProgressBar(
        total=max(steps, 1),
        completed=done,
        width=width,
        complete_style="cyan",
        finished_style="green",
    )


def short_number(value: float) -> str:
    """Four digits at most; "-" where there is no number."""
    if not math.isfinite(value):
        return "-"
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:.2e}"


def _clipped(text: str, width: int, lines: int, style: str) -> list[Text]:
    """At most `lines` lines of at most `width` columns; the panel keeps its height whatever the
    model writes.
    """
    # Far more than fits need not be wrapped at all.
    wrapped = [
        row
        for line in visible(text[: width * lines * 2].replace("\t", " "), lines=True)
        .strip("\n")
        .split("\n")[: lines + 1]
        for row in Text(line, style=style).wrap(_PLAIN, width)
    ]
    if len(wrapped) > lines:
        wrapped = [*wrapped[: lines - 1], Text("…", style="dim")]
    return wrapped


_PLAIN = Console(width=80, force_terminal=False)
