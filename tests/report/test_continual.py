"""Heat maps: colours by gain, framed own stages, and a page's section."""

from __future__ import annotations

import json
import math
import xml.dom.minidom
from pathlib import Path
from typing import Any

from posttrain.report.continual import benchmark, heat_map, write_heat_maps
from posttrain.report.html import page
from posttrain.report.run_folder import read_run

VALUES = [[math.log(20), math.log(10)], [math.log(5), math.log(12)], [math.log(20), math.log(4)]]


def cells(svg: str) -> list[tuple[str, str]]:
    """(perplexity, colour) of each cell."""
    document = xml.dom.minidom.parseString(svg)
    groups = document.getElementsByTagName("g")
    return [
        (
            g.getElementsByTagName("text")[0].firstChild.data,
            g.getElementsByTagName("rect")[0].getAttribute("fill"),
        )
        for g in groups
    ]


def test_better_is_blue_and_worse_is_red() -> None:
    svg = heat_map("a <stream>", ["prose & verse", "law"], VALUES)
    found = cells(svg)
    assert [number for number, _ in found] == ["20.00", "10.00", "5.00", "12.00", "20.00", "4.00"]
    colours = [colour for _, colour in found]
    assert colours[0] == colours[1] == colours[4] == "#ffffff"
    red, blue = slice(1, 3), slice(5, 7)
    assert int(colours[2][blue], 16) > int(colours[2][red], 16)
    assert int(colours[3][red], 16) > int(colours[3][blue], 16)
    assert svg.count("stroke-width") == 2  # own stages
    assert int(colours[2][red], 16) < int(colours[5][red], 16)  # a gain of ln 4, and of ln 2.5


def written() -> dict[str, Any]:
    interval = {"estimate": 2.0, "low": 1.0, "high": 3.0, "n": 2}
    return {
        "model": "tiny",
        "domains": ["a", "b"],
        "seeds": [3, 4],
        "neighbours": {},
        "streams": [
            {
                "name": "random, replay 25%",
                "settings": {},
                "orders": [["b", "a"], ["a", "b"]],
                "values": {"nats": [VALUES, VALUES]},
                "alone": {"nats": [[1.0, 1.0], [1.0, 1.0]]},
            }
        ],
        "table": {"random, replay 25%": {"ZS": interval, "LC": {**interval, "low": None}}},
        "comparisons": [
            {
                "a": "ZS",
                "b": "LC",
                "p_value": None,
                "difference": {"estimate": -0.5, "low": None, "high": None, "p_value": None},
            }
        ],
    }


def test_each_stream_has_a_file(tmp_path: Path) -> None:
    (file,) = write_heat_maps(written(), tmp_path)
    assert file.name == "heat_map-random-replay-25-.svg"
    assert "seed 3" in file.read_text()


def test_a_page_shows_the_benchmark(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("method: continual_pretraining\n")
    (tmp_path / "continual.json").write_text(json.dumps(written()))
    text = page(read_run(tmp_path))
    assert "Continual pretraining" in text and "1.00 to 3.00" in text and "LC - ZS" in text
    assert benchmark(written()) in text
