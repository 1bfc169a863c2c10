"""Plots of forecasts are documents that a browser reads."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from posttrain.report.dynamics import Line, lines_svg


@pytest.mark.parametrize("log_x", [False, True])
def test_lines_lie_within_the_axes(log_x: bool) -> None:
    lines = [Line("a < b", [(1, 0.5), (10, 0.1)]), Line("flat", [(1, 0.2), (10, 0.2)], True)]
    page = ElementTree.fromstring(lines_svg("T & c", "x", "y", lines, log_x=log_x))
    shapes = [s for s in page.iter() if s.tag.endswith("polyline")]
    assert len(shapes) == 2 and "stroke-dasharray" in shapes[1].attrib
    first, last = shapes[0].attrib["points"].split()
    assert first == "56.0,32.0" and last == "544.0,316.0"


def test_a_plot_without_points_is_a_plot() -> None:
    ElementTree.fromstring(lines_svg("none", "x", "y", []))
    ElementTree.fromstring(lines_svg("one", "x", "y", [Line("a", [(1, 1)])]))
