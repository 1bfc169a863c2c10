"""Progress: plain lines where there is no terminal, one panel of fixed shape where there is."""

from __future__ import annotations

import io
import math
import sys
from types import ModuleType
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from posttrain.training import progress as module
from posttrain.training.panel import Sampled
from posttrain.training.progress import ItemProgress, Progress, duration

METRICS = {
    "loss": 0.5,
    "reward": 0.25,
    "reward_std": 0.125,
    "kl": math.nan,
    "completions/mean_length": 38.25,
    "learning_rate": 3e-5,
    "tokens_per_second": 2134.5,
    "rewards/errors": 0.0,
}


class Clock:
    """A clock that tests move by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def lines_of(steps: int, clock: Clock, seconds: float, *, start: int = 0) -> list[str]:
    file = io.StringIO()
    with Progress(
        steps, title="GRPO", console=Console(file=file, width=80), start=start
    ) as progress:
        for step in range(start + 1, steps + 1):
            clock.now += seconds
            progress(step, METRICS)
    return file.getvalue().splitlines()


def test_plain_lines_without_a_terminal(clock: Clock) -> None:
    lines = lines_of(100, clock, 2.0)
    assert [line.split()[1] for line in lines] == ["1/100", *(f"{n}0/100" for n in range(1, 11))]
    expected = "GRPO 50/100  1:40  ETA 1:40  2,134 tokens/s  reward 0.25 +- 0.125  loss 0.5"
    assert lines[5] == expected
    assert "ETA" not in lines[-1]
    assert all("\x1b" not in line for line in lines)


def test_slow_runs_speak_once_a_minute(clock: Clock) -> None:
    lines = lines_of(1000, clock, 30.0)
    assert len(lines) > 400


def test_a_resumed_run_counts_from_where_it_was(clock: Clock) -> None:
    lines = lines_of(100, clock, 1.0, start=90)
    assert lines[0].startswith("GRPO 91/100  0:01  ETA 0:09")


@pytest.mark.parametrize("environ", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_plain_where_the_terminal_wants_it(environ: dict[str, str]) -> None:
    file = io.StringIO()
    console = Console(file=file, width=80, force_terminal=True, _environ=environ)
    with Progress(2, title="SFT", console=console) as progress:
        progress(1, {"loss": 1.0})
    assert "SFT 1/2" in file.getvalue()
    assert "╭" not in file.getvalue()


def panel(
    width: int,
    sampled: Sampled | None = None,
    metrics: dict[str, float] | None = None,
    calls: int = 3,
) -> list[str]:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    progress = Progress(60, title="GRPO", console=console, sampled=lambda: sampled)
    progress._sample = sampled
    for step in range(1, calls + 1):
        progress.history.add(metrics or METRICS)
        progress.step = step
    with console.capture() as capture:
        console.print(progress)
    return capture.get().splitlines()


@pytest.mark.parametrize("width", [30, 60, 80, 120])
def test_panel_fits(width: int) -> None:
    rows = panel(width, ("Q: 1+1\nA:", "日本語" * 200 + "\x1b[2J\x07" + "x" * 500, 0.5), calls=50)
    assert {cell_len(row) for row in rows} == {width}
    assert not any(c in row for row in rows for c in "\x1b\x07")
    assert len(rows) < 24


def test_panel_shows_the_metrics() -> None:
    text = "\n".join(panel(80, ("Q: 1+1", " 2\n#### 2", 1.0)))
    for shown in (
        "step 3 of 60",
        "loss",
        "0.25 ± 0.125",
        "38.2",
        "3.00e-05",
        "2,134 tokens/s",
        "Q: 1+1",
        "#### 2",
        "reward 1",
    ):
        assert shown in text
    assert "reward errors" not in text
    assert "reward errors" in "\n".join(panel(80, metrics={**METRICS, "rewards/errors": 2.0}))


def test_panel_does_not_shrink() -> None:
    console = Console(width=80, file=io.StringIO())
    progress = Progress(60, title="GRPO", console=console)
    heights = []
    for text in ("short", "many words " * 100, "short"):
        progress._sample = ("Q", text, None)
        with console.capture() as capture:
            console.print(progress)
        heights.append(len(capture.get().splitlines()))
    assert heights[0] < heights[1] == heights[2]


def test_live_display_samples_and_stops() -> None:
    file = io.StringIO()
    console = Console(file=file, width=80, force_terminal=True, _environ={"TERM": "xterm-256color"})
    console_encoding = console.encoding.lower()
    asked: list[int] = []

    def sampled() -> Sampled:
        asked.append(1)
        return "Q: 1+1", " two", 0.0

    with Progress(2, title="GRPO", console=console, sampled=sampled) as progress:
        progress(1, METRICS)
        progress(2, METRICS)
    if console_encoding.startswith("utf"):
        assert len(asked) == 2
        assert "step 2 of 2" in file.getvalue()
        assert file.getvalue().count("\x1b[?25l") == file.getvalue().count("\x1b[?25h") == 1


def test_durations() -> None:
    assert [duration(s) for s in (0, 61.9, 3600)] == ["0:00", "1:01", "1:00:00"]


def test_preference_metrics_are_shown() -> None:
    names = ("accuracies", "margins", "chosen", "rejected")
    text = "\n".join(panel(80, metrics={f"rewards/{n}": 0.25 for n in names} | {"loss": 0.6}))
    for label in ("accuracy", "margin", "chosen reward", "rejected reward", "loss"):
        assert label in text
    assert text.index("accuracy") < text.index("loss")


def items(total: int, calls: list[int], clock: Clock, **console: Any) -> str:
    file = io.StringIO()
    with ItemProgress(
        total, title="evaluation", console=Console(file=file, width=60, **console)
    ) as progress:
        for done in calls:
            clock.now += 2
            progress(done)
    return file.getvalue()


def test_items_print_a_line_per_tenth(clock: Clock) -> None:
    lines = items(300, list(range(1, 301)), clock).splitlines()
    assert len(lines) == 10
    assert lines[3] == "evaluation 120/300 problems  4:00  ETA 6:00"
    assert lines[-1] == "evaluation 300/300 problems  10:00"


def test_items_may_end_in_any_order(clock: Clock) -> None:
    lines = items(10, [4, 2, 4, 20], clock).splitlines()
    assert [line.split()[1] for line in lines] == ["4/10", "10/10"]


def test_items_on_a_terminal_leave_nothing_behind(clock: Clock) -> None:
    terminal = {"force_terminal": True, "_environ": {"TERM": "xterm-256color"}}
    text = items(10, [3, 10], clock, **terminal)
    if Console(file=io.StringIO()).encoding.startswith("utf"):
        assert "10/10 problems" in text and "━" in text
    for width in (20, 60):
        progress = ItemProgress(300, title="evaluation", console=Console(width=width))
        progress(150)
        assert cell_len(progress.__rich__().plain) <= width


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a notebook's cell shows after each update; IPython itself is not needed."""
    shown: list[str] = []

    class Handle:
        def update(self, value: object) -> None:
            shown[-1] = repr(value)

    def display(value: object, *, display_id: bool) -> Handle:
        shown.append(repr(value))
        return Handle()

    fake: Any = ModuleType("IPython.display")
    fake.display = display
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", fake)
    return shown


def test_a_notebook_shows_one_updating_line(notebook: list[str]) -> None:
    console = Console(file=io.StringIO(), width=80)
    console.is_jupyter = True
    with Progress(30, title="GRPO", console=console) as progress:
        for step in range(1, 31):
            progress(step, METRICS)
    with ItemProgress(9, title="evaluation", console=console) as counted:
        for done in range(1, 10):
            counted(done)
    assert len(notebook) == 2
    assert notebook[0].startswith("GRPO 30/30") and "reward 0.25" in notebook[0]
    assert notebook[1].startswith("evaluation 9/9 problems")
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]


def test_a_plain_line_leaves_out_what_is_least_useful(clock: Clock) -> None:
    progress = Progress(100, title="a run with a name", console=Console(file=io.StringIO()))
    clock.now += 5
    progress(1, {**METRICS, "kl": 0.1, "entropy": 2.5, "grad_norm": 1.5, "eval_loss": 0.25})
    whole, short = progress.line(), progress.line(80)
    assert len(short) <= 80 < len(whole)
    assert "reward 0.25" in short and "loss 0.5" in short and "lr " not in short
    assert "tokens/s" not in progress.line(70) and "ETA" in progress.line(70)
