"""The panel that shows a training run on a terminal: steps, metrics with their history, and one
sampled completion.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from rich.console import Console, Group
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from posttrain.report.turns import Part
from posttrain.terminal import styled, visible

Sampled = tuple[str, str | Sequence[Part], float | None]
"""A prompt, a completion or what was said in an episode, and its reward."""

# Metric -> its label, in the order of the panel: what a method improves comes first.
SHOWN = {
    "reward": "reward",
    "rewards/accuracies": "accuracy",
    "rewards/margins": "margin",
    "rewards/chosen": "chosen reward",
    "rewards/rejected": "rejected reward",
    "accuracy": "accuracy",
    "margin": "margin",
    "loss": "loss",
    "eval_loss": "held-out loss",
    "eval_accuracy": "held-out accuracy",
    "evaluation/accuracy": "evaluation accuracy",
    "kl": "kl",
    "entropy": "entropy",
    "completions/mean_length": "length",
    "episodes/num_turns": "turns",
    "grad_norm": "grad norm",
    "learning_rate": "lr",
    "rewards/errors": "reward errors",
}
_BLOCKS = "▁▂▃▄▅▆▇█"
_PROMPT_LINES, _COMPLETION_LINES = 3, 6
_PART_LINES, _EPISODE_LINES = 3, 12
# Of what the model said, whether it is trained on; of tools, users and the environment.
_TRAINED, _UNTRAINED, _CONTEXT = "green", "yellow", "dim"
_PLAIN = Console(width=80, force_terminal=False)


def sparkline(values: Sequence[float], width: int) -> str:
    """The values as at most `width` block characters, scaled to their own range; longer
    histories are averaged.
    """
    finite = [v for v in values if math.isfinite(v)]
    if len(finite) < 2 or width < 2:
        return ""
    size = min(width, len(finite))
    cuts = [i * len(finite) // size for i in range(size + 1)]
    means = [sum(finite[a:b]) / (b - a) for a, b in pairwise(cuts)]
    low, high = min(means), max(means)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        return _BLOCKS[0] * size
    levels = [int((v - low) / (high - low) * len(_BLOCKS)) for v in means]
    return "".join(_BLOCKS[min(level, len(_BLOCKS) - 1)] for level in levels)


def short_number(value: float) -> str:
    """Four digits at most; "-" where there is no number."""
    if not math.isfinite(value):
        return "-"
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:.2e}"


class History:
    """The shown metrics of all steps so far."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}
        self.metrics: dict[str, float] = {}

    def add(self, metrics: Mapping[str, float]) -> None:
        """Record a step."""
        self.metrics = dict(metrics)
        for name in SHOWN:
            if name in metrics:
                self.values.setdefault(name, []).append(metrics[name])

    def names(self) -> list[str]:
        """The metrics to show: those that were measured; failures only once there are some."""
        failed = any(v > 0 for v in self.values.get("rewards/errors", ()))
        return [n for n in SHOWN if n in self.values and (n != "rewards/errors" or failed)]

    def text(self, name: str, plus_minus: str) -> str:
        """The last value of a metric; the reward with its standard deviation."""
        text = short_number(self.values[name][-1])
        spread = self.metrics.get("reward_std") if name == "reward" else None
        return text if spread is None else f"{text}{plus_minus}{short_number(spread)}"

    def line(self) -> list[str]:
        """The metrics of the last step as plain text: "loss 0.5"."""
        names = [name for name in self.names() if name in self.metrics]
        return [f"{SHOWN[name]} {self.text(name, ' +- ')}" for name in names]


def panel(
    title: str,
    *,
    step: int,
    steps: int,
    times: str,
    history: History,
    sample: Sequence[Text],
    width: int,
) -> Panel:
    """The panel, `width` columns wide.

    Args:
        times: elapsed and remaining time and speed. sample: lines made by `sample_lines`.
    """
    inner = max(width - 4, 8)
    share = step / steps if steps else 1.0
    where = Text(f"step {step} of {steps}", style="bold").append(
        f"  {share:.0%}", style="not bold dim"
    )
    head = Table.grid(expand=True)
    head.add_column(no_wrap=True)
    times_text = Text(times, style="dim")
    if len(where) + len(times_text) + 2 <= inner:
        head.add_column(justify="right", no_wrap=True)
        head.add_row(where, times_text)
    else:
        head.add_row(where)
        head.add_row(times_text)
    parts: list[Any] = [head, _bar(steps, step, inner)]
    if history.metrics:
        parts.append(_numbers(history, inner))
    return Panel(
        Group(*parts, *sample),
        title=styled(visible(title)),
        title_align="left",
        border_style="dim",
        padding=(0, 1),
    )


def _bar(steps: int, done: int, width: int) -> Table:
    """A progress bar in a table: a bar alone does not end its line, and would swallow the next."""
    table = Table.grid()
    table.add_row(
        ProgressBar(
            total=max(steps, 1),
            completed=done,
            width=width,
            complete_style="cyan",
            finished_style="green",
        )
    )
    return table


def _numbers(history: History, inner: int) -> Table:
    """A line for each metric: label, last value, history."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(no_wrap=True, justify="right")
    table.add_column(no_wrap=True, style="cyan")
    rows = [(name, SHOWN[name], history.text(name, " ± ")) for name in history.names()]
    labels = max((len(label) for _, label, _ in rows), default=0)
    values = max((len(value) for _, _, value in rows), default=0)
    for name, label, value in rows:
        value_text = Text(value, style="bold red" if name == "rewards/errors" else "")
        curve = sparkline(history.values[name], min(inner - labels - values - 6, 60))
        table.add_row(label, value_text, curve)
    return table


def sample_lines(sampled: Sampled, width: int) -> list[Text]:
    """A prompt, a completion and its reward, clipped to few lines. Of an episode each part has its
    role before it, and a colour for what is trained on.
    """
    prompt, completion, reward = sampled
    inner = max(width - 4, 8)
    words = "no reward" if reward is None else f"reward {short_number(reward)}"
    style = "green" if reward is not None and reward > 0 else "yellow"
    return [
        Text("─" * inner, style="dim"),
        *_clipped(prompt, inner, _PROMPT_LINES, "dim"),
        *_completion_lines(completion, inner),
        Text(words, style=style),
    ]


def _completion_lines(completion: str | Sequence[Part], width: int) -> list[Text]:
    if isinstance(completion, str):
        return _clipped(completion, width, _COMPLETION_LINES, "")
    lines: list[Text] = []
    for role, text, is_trained in completion:
        is_policy = role == "assistant"
        style = (_TRAINED if is_trained else _UNTRAINED) if is_policy else _CONTEXT
        lines += _clipped(f"{role}: {text}", width, _PART_LINES, style)
    if len(lines) <= _EPISODE_LINES:
        return lines
    half = _EPISODE_LINES // 2
    return [*lines[: half - 1], Text("…", style="dim"), *lines[-half:]]


def _clipped(text: str, width: int, lines: int, style: str) -> list[Text]:
    """At most `lines` lines of at most `width` columns; the panel keeps its height whatever the
    model writes.
    """
    # Far more than fits need not be wrapped at all.
    start = visible(text[: width * lines * 2].replace("\t", " "), lines=True).strip("\n")
    wrapped = [
        row
        for line in start.split("\n")[: lines + 1]
        for row in Text(line, style=style).wrap(_PLAIN, width)
    ]
    if len(wrapped) > lines:
        wrapped = [*wrapped[: lines - 1], Text("…", style="dim")]
    return wrapped
