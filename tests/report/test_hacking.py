"""The plot of best-of-N is well-formed; the lines of a watch say what the metrics hold."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from posttrain.report.hacking import (
    HEIGHT,
    WIDTH,
    Line,
    hacking_svg,
    watch_lines,
    watch_section,
)

METRICS = [
    {"step": 1, "watch/proxy": 0.0, "watch/gold": 0.2, "watch/kl": 0.0},
    {"step": 2, "watch/proxy": 0.5, "watch/gold": 0.6, "watch/kl": 1.5},
    {"step": 3, "watch/proxy": 0.9, "watch/gold": 0.3, "watch/alarm/gold_falls": 1.0},
    {"step": 4, "watch/proxy": 1.0, "watch/gold": 0.1, "watch/alarm/gold_falls": 1.0},
]


def test_the_plot_is_well_formed_and_inside_its_frame() -> None:
    lines = [
        Line("a <b> & c", [(0.0, 0.1, 0.05, 0.2), (3.0, 0.5, 0.4, 0.6)], [0.0, 1.0]),
        Line("one", [(1.0, 0.3, 0.2, float("inf"))], [0.0]),
    ]
    root = ElementTree.fromstring(hacking_svg("t", lines))
    circles = [e for e in root.iter() if e.tag.endswith("circle")]
    assert len(circles) == 3
    for circle in circles:
        assert 0 <= float(circle.attrib["cx"]) <= WIDTH
        assert 0 <= float(circle.attrib["cy"]) <= HEIGHT
    assert float(circles[0].attrib["cy"]) > float(circles[1].attrib["cy"])
    ElementTree.fromstring(hacking_svg("t", []))


def test_the_lines_name_the_peak_its_kl_and_the_alarms() -> None:
    first, second = watch_lines(METRICS)
    assert "0.600 at step 2, KL 1.5 nats" in first and "0.200 to 0.100" in first
    assert "first at step 3, 2 steps" in second
    assert watch_lines(METRICS[:2])[1] == "alarms: none"
    rarely = [METRICS[0], {**METRICS[1], "watch/kl": None}]
    assert "at step 2, KL 0 nats" in watch_lines(rarely)[0]  # the last one measured before


def test_a_run_without_a_watched_gold_reward_has_no_section() -> None:
    assert watch_lines([{"step": 1, "reward": 1.0}]) == []
    assert watch_section([{"step": 1, "reward": 1.0}]) == ""
    page = watch_section(METRICS)
    assert "gold" in page and "<svg" in page
    assert "<svg" in watch_section(METRICS[:1])
