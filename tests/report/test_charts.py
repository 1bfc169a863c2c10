"""Charts: a second drawing on a logarithmic axis, one colour per name, finite places."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from posttrain.report.charts import by_samples, curve, several
from posttrain.report.records import Interval


def heights(group: ElementTree.Element, name: str) -> list[float]:
    (line,) = [e for e in group.iter("polyline") if e.get("class") == name]
    return [float(place.split(",")[1]) for place in str(line.get("points")).split()]


def drawings(chart: str) -> dict[str, ElementTree.Element]:
    """The parts of a chart that the switch shows and hides."""
    root = ElementTree.fromstring(chart.replace(' tabindex="0"', ""))
    return {str(g.get("class")): g for g in root.iter("g")}


def test_log_axis_spaces_powers_of_ten_evenly() -> None:
    points = [(1.0, 100.0), (2.0, 10.0), (3.0, 1.0)]
    parts = drawings(curve("loss", points, smoothed=False))
    log, linear = (heights(parts[name], "smooth always") for name in ("log", "linear"))
    assert math.isclose(log[1] - log[0], log[2] - log[1], abs_tol=0.2)
    assert linear[1] - linear[0] > 5 * (linear[2] - linear[1])
    labels = [e.text for e in parts["log"].iter("text") if e.get("text-anchor") == "end"]
    assert {"1", "10", "100"} <= set(labels)


@pytest.mark.parametrize("values", [(0.0, 1.0), (-1.0, 1.0), (1.0, 2.0)])
def test_no_log_axis_for_what_it_does_not_suit(values: tuple[float, float]) -> None:
    assert drawings(curve("kl", list(enumerate(values)))) == {}


def test_a_band_below_zero_stays_inside_a_log_axis() -> None:
    points = [(1.0, 0.1), (2.0, 1.0), (3.0, 10.0)]
    chart = curve("reward", points, band=[(s, v * 0.5, v * 2) for s, v in points])
    assert "nan" not in chart and "inf" not in chart and 'class="log"' in chart
    below = curve("reward", points, band=[(s, v - 1, v + 1) for s, v in points])
    assert 'class="log"' not in below


def test_names_keep_their_colours() -> None:
    chart = several("reward", [("b", [(1.0, 1.0), (2.0, 2.0)])], colours=[4])
    assert re.findall(r'<li class="(s\d)">(\w)</li>', chart) == [("s4", "b")]
    assert 'class="smooth s4"' in chart


def test_by_samples_spaces_powers_of_two_evenly() -> None:
    values = {k: Interval(0.1 * k, 0.05 * k, 0.15 * k) for k in (1, 2, 4)}
    chart = by_samples("pass@k", [("base", values)])
    xs = [float(x) for x in re.findall(r'<circle class="dot s0" cx="([\d.]+)"', chart)]
    assert math.isclose(xs[1] - xs[0], xs[2] - xs[1], abs_tol=0.11)
