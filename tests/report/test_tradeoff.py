"""The plot is well-formed, stays inside its frame, and shows no text of a user unescaped."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from posttrain.report.tradeoff import HEIGHT, WIDTH, Line, tradeoff_svg


def test_the_plot_is_well_formed_and_inside_its_frame() -> None:
    lines = [
        Line("a <b> & c" * 9, [(10.0, 0.1, 0.05, 0.2), (1000.0, 0.5, 0.4, 0.6)]),
        Line("one", [(50.0, 0.3, 0.2, 0.4)]),
    ]
    root = ElementTree.fromstring(tradeoff_svg("t", lines, [(10.0, 0.1), (1000.0, 0.5)]))
    circles = [e for e in root.iter() if e.tag.endswith("circle")]
    assert len(circles) == 3
    for circle in circles:
        assert 0 <= float(circle.attrib["cx"]) <= WIDTH
        assert 0 <= float(circle.attrib["cy"]) <= HEIGHT
    heights = [float(c.attrib["cy"]) for c in circles]
    assert heights[0] > heights[2] > heights[1]


def test_a_plot_of_nothing_and_of_one_place() -> None:
    for lines in ([], [Line("one", [(1.0, 0.0, 0.0, 0.0)])]):
        ElementTree.fromstring(tradeoff_svg("t", lines))
