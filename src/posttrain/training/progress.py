"""A run's progress on the terminal: live where there is one, a line now and then where there is not."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

Sampled = tuple[str, str, float | None]
"""A prompt, a completion, its reward."""

_BLOCKS = "▁▂▃▄▅▆▇█"
_SHOWN = {
    "loss": "loss",
    "eval_loss": "eval loss",
    "reward": "reward",
    "reward_std": "reward std",
    "kl": "kl",
    "entropy": "entropy",
    "completions/mean_length": "length",
    "grad_norm": "grad norm",
    "learning_rate": "lr",
    "rewards/errors": "reward errors",
}


def sparkline(values: list[float], width: int) -> str:
    """The last `width` values as block characters, scaled to their own range."""
    values = [v for v in values if v == v][-width:]
    if len(values) < 2:
        return ""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(_BLOCKS[int((v - low) / span * (len(_BLOCKS) - 1))] for v in values)


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Progress:
    """A hook and a context manager.

    Args:
        steps: of the whole run. start: steps that were done before. sampled: a completion to show, or None.
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
        self.history: dict[str, deque[float]] = {}
        self._began = time.monotonic()
        self._live: Live | None = None

    def __enter__(self) -> Progress:
        self._began = time.monotonic()
        if self.console.is_terminal and not self.console.is_dumb_terminal:
            self._live = Live(self, console=self.console, refresh_per_second=4, transient=False)
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
        self.step, self.metrics = step, metrics
        for name in _SHOWN:
            if name in metrics:
                self.history.setdefault(name, deque(maxlen=200)).append(metrics[name])
        if self._live is None and (step in (1, self.steps) or step % max(self.steps // 10, 1) == 0):
            numbers = "  ".join(f"{_SHOWN[k]} {_number(metrics[k])}" for k in _SHOWN if k in metrics)
            self.console.print(
                f"{self.title} {step}/{self.steps}  {self._times()}  {numbers}",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )

    def _times(self) -> str:
        elapsed = time.monotonic() - self._began
        done = self.step - self.start
        left = elapsed / done * (self.steps - self.step) if done else None
        eta = "" if left is None else f"  ETA {duration(left)}"
        speed = self.metrics.get("tokens_per_second")
        return f"{duration(elapsed)}{eta}" + (f"  {speed:,.0f} tokens/s" if speed else "")

    def __rich__(self) -> Panel:
        narrow = self.console.width < 70
        table = Table.grid(padding=(0, 2))
        table.add_column(style="dim")
        table.add_column(justify="right")
        table.add_column(style="green", no_wrap=True)
        for name, label in _SHOWN.items():
            if name in self.metrics:
                width = 12 if narrow else min(40, self.console.width - 36)
                table.add_row(label, _number(self.metrics[name]), sparkline(list(self.history[name]), width))
        bar = ProgressBar(total=self.steps, completed=self.step, width=max(10, min(60, self.console.width - 6)))
        parts: list[Any] = [Text(f"step {self.step} of {self.steps}   {self._times()}"), bar, table]
        shown = self.sampled() if self.sampled is not None else None
        if shown is not None:
            prompt, completion, reward = shown
            told = "no reward" if reward is None else f"reward {reward:.3g}"
            parts.append(Text(f"\n{_clipped(prompt, 160)}", style="dim"))
            parts.append(Text(_clipped(completion, 320)))
            parts.append(Text(told, style="green" if reward else "red"))
        return Panel(Group(*parts), title=self.title, title_align="left", border_style="dim")


def _number(value: float) -> str:
    if value != value:
        return "-"
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.4g}"
    return f"{value:.2e}"


def _clipped(text: str, size: int) -> str:
    return text if len(text) <= size else f"{text[:size]} …"
