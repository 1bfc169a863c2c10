"""Pieces of the live panel."""

from __future__ import annotations

import math

from rich.cells import cell_len

from posttrain.training.panel import History, sample_lines, short_number, sparkline


def test_sparkline() -> None:
    assert sparkline([0.0, 1.0], 10) == "▁█"
    assert sparkline([1.0, 1.0, 1.0], 10) == "▁▁▁"
    assert sparkline([math.nan, 1.0], 10) == ""
    assert len(sparkline([float(i) for i in range(1000)], 12)) == 12
    assert sparkline([float(i) for i in range(8)], 8) == "▁▂▃▄▅▆▇█"


def test_short_numbers() -> None:
    assert [short_number(v) for v in (0, 0.12345, 38.25, 123456.0, 3e-5, math.nan)] == [
        "0",
        "0.123",
        "38.2",
        "1.23e+05",
        "3.00e-05",
        "-",
    ]


def test_history_names_what_was_measured() -> None:
    history = History()
    history.add({"loss": 1.0, "rewards/errors": 0.0, "unknown": 3.0})
    history.add({"loss": 0.5, "reward": 0.25, "reward_std": 0.125, "rewards/errors": 0.0})
    assert history.names() == ["reward", "loss"]
    assert history.line() == ["reward 0.25 +- 0.125", "loss 0.5"]
    history.add({"rewards/errors": 2.0})
    assert history.names()[-1] == "rewards/errors"


def test_samples_are_clipped_and_safe() -> None:
    lines = sample_lines(("Q\x1b[2J", "日本語" * 500, None), 40)
    assert max(cell_len(line.plain) for line in lines) <= 36
    assert len(lines) <= 11 and "\x1b" not in "".join(line.plain for line in lines)
    assert lines[-1].plain == "no reward"


def test_an_episode_in_colour() -> None:
    parts = [("assistant", "call", True), ("tool", "3\x1b", False), ("assistant", "x" * 500, False)]
    lines = sample_lines(("Q", parts, 1.0), 40)
    texts = {line.plain[:9]: str(line.style) for line in lines}
    assert texts["assistant"] == "yellow" and texts["tool: 3␛"] == "dim"
    assert str(next(line for line in lines if line.plain == "assistant: call").style) == "green"
    many = sample_lines(("Q", parts * 20, 1.0), 40)
    assert len(many) <= 16 and "…" in [line.plain for line in many]
    assert max(cell_len(line.plain) for line in many) <= 36
