"""Streams over seeds: columns by hand, paired comparisons, and files that are read back."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from posttrain.errors import DataError
from posttrain.evaluation.streams import Stream, Streams, read_streams


def stream(name: str, last: float) -> Stream:
    """Two domains, two seeds. Seed 1 has each value 1 higher."""
    first = [[3.0, 4.0], [1.0, 3.5], [last, 2.0]]
    second = [[v + 1 for v in row] for row in first]
    alone = [[1.25, 2.5], [2.25, 3.5]]
    values = {"nats": [first, second], "rank": [first, second]}
    orders = [["a", "b"], ["b", "a"]]
    return Stream(name, {"order": "random"}, orders, values, {"nats": alone, "rank": alone})


def streams() -> Streams:
    return Streams("tiny", ["a", "b"], [0, 1], [stream("x", 1.5), stream("y", 2.5)], {"x": 0.5})


def test_columns_by_hand() -> None:
    assert stream("x", 1.5).columns() == {
        "ZS": [3.5, 4.5],
        "DAPT": [1.875, 2.875],
        "CPT": [1.5, 2.5],
        "LC": [1.75, 2.75],
        "FG": [0.5, 0.5],
        "backward": [1.5, 1.5],
        "forward": [0.5, 0.5],
    }


def test_perplexities_are_averaged_over_domains() -> None:
    columns = stream("x", 1.5).columns(perplexity=True)
    assert columns["ZS"][0] == pytest.approx((math.exp(3) + math.exp(4)) / 2)
    assert columns["FG"][0] == pytest.approx(math.exp(1.5) - math.exp(1))


def test_gains_by_lag_over_seeds() -> None:
    by_lag = stream("x", 1.5).by_lag()
    assert [(lag, i.estimate, i.n) for lag, i in by_lag.items()] == [
        (-1, 0.5, 2),
        (0, 2.0, 2),
        (1, 1.5, 2),
    ]


def test_streams_are_compared_with_the_first_by_seed() -> None:
    found = {(c.a, c.b): c.difference.estimate for c in streams().comparisons()}
    assert found["LC of x", "LC of y"] == pytest.approx(0.5)
    assert found["FG of x", "FG of y"] == pytest.approx(1.0)
    assert found["CPT of x", "CPT of y"] == 0
    assert found["DAPT of x", "CPT of x"] == pytest.approx(-0.375)
    assert found["ZS of y", "DAPT of y"] == pytest.approx(-1.625)


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    whole = streams()
    file = whole.save(tmp_path)
    assert file.name == "continual.json"
    assert read_streams(tmp_path) == read_streams(file) == whole
    text = str(whole)
    assert "keyword" not in text and "true token" in text and "x 0.500" in text


def test_one_seed_has_no_intervals(tmp_path: Path) -> None:
    whole = streams()
    for one in whole.streams:
        del one.orders[1:], one.values["nats"][1:], one.alone["nats"][1:]
        del one.values["rank"], one.alone["rank"]
    single = Streams("tiny", ["a", "b"], [0], whole.streams, {})
    values = json.loads(single.save(tmp_path).read_text())
    assert values["comparisons"][0]["p_value"] is None
    assert values["table"]["x"]["LC"]["low"] is None
    assert "±" not in str(single) and "nan" not in str(single)


def test_broken_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        read_streams(tmp_path)
    (tmp_path / "continual.json").write_text('{"streams": [{}]}')
    with pytest.raises(DataError):
        read_streams(tmp_path)
