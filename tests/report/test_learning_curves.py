"""The picture of curves."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree

from posttrain.report.learning_curves import HEIGHT, WIDTH, Line, learning_curves_svg


def test_lines_bands_and_names() -> None:
    lines = [
        Line("a & b", [(10, 0.5, 0.4, 0.6), (20, 0.7, 0.6, 0.8)]),
        Line("alone", [(10, 0.4, -math.inf, math.inf), (20, 0.5, -math.inf, math.inf)]),
    ]
    text = learning_curves_svg("curves", lines)
    ElementTree.fromstring(text)
    assert text.count("<polyline") == 2 and text.count("<polygon") == 1 and "a &amp; b" in text
    numbers = re.findall(r'points="([^"]+)"', text)
    for pair in " ".join(numbers).split():
        x, y = map(float, pair.split(","))
        assert 0 <= x <= WIDTH and 0 <= y <= HEIGHT


def test_one_point() -> None:
    ElementTree.fromstring(learning_curves_svg("t", [Line("a", [(10, 0.5, 0.5, 0.5)])]))
