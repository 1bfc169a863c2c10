"""Progress: plain lines where there is no terminal, one panel of fixed shape where there is."""

from __future__ import annotations

import io
import math

import pytest
from rich.cells import cell_len
from rich.console import Console

from posttrain.terminal import visible
from posttrain.training import progress as module
from posttrain.training.panel import Sampled, short_number, sparkline
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
    expected = (
        "GRPO 50/100  1:40  ETA 1:40  2,134 tokens/s  reward 0.25 +- 0.125  loss 0.5  kl -  "
        "length 38.2"
    )
    assert lines[5] == f"{expected}  lr 3.00e-05"
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


def test_sparkline() -> None:
    assert sparkline([0.0, 1.0], 10) == "▁█"
    assert sparkline([1.0, 1.0, 1.0], 10) == "▁▁▁"
    assert sparkline([math.nan, 1.0], 10) == ""
    assert len(sparkline([float(i) for i in range(1000)], 12)) == 12
    assert sparkline([float(i) for i in range(8)], 8) == "▁▂▃▄▅▆▇█"


def test_small_texts() -> None:
    assert [duration(s) for s in (0, 61.9, 3600)] == ["0:00", "1:01", "1:00:00"]
    assert [short_number(v) for v in (0, 0.12345, 38.25, 123456.0, 3e-5, math.nan)] == [
        "0",
        "0.123",
        "38.2",
        "1.23e+05",
        "3.00e-05",
        "-",
    ]
    assert visible("a\x1b[0m\n\x7f", lines=True) == "a␛[0m\n␡"
