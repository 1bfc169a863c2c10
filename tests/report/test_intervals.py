"""Intervals of stages as dots with whiskers."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from posttrain.report.intervals import intervals, picture
from posttrain.report.records import StageRow

ROWS = [StageRow("base", 0.1, 0.05, 0.15), StageRow("<GRPO>", 0.8, 0.75, 0.85)]


def test_whiskers_end_at_the_interval() -> None:
    root = ElementTree.fromstring(picture("title", ROWS))
    name = "{http://www.w3.org/2000/svg}"
    dots = [float(str(c.get("cx"))) for c in root.iter(f"{name}circle")]
    whiskers = [
        (float(str(e.get("x1"))), float(str(e.get("x2"))))
        for e in root.iter(f"{name}line")
        if e.get("class") == "whisker" and e.get("x1") != e.get("x2")
    ]
    assert all(low < dot < high for dot, (low, high) in zip(dots, whiskers, strict=True))
    assert "<GRPO>" in "".join(root.itertext())


def test_wide_and_narrow() -> None:
    assert intervals(ROWS).count("<svg") == 2
