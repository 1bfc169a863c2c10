"""Bounds on measures, and the rows that are left."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from posttrain.curation.selection import Bound, filter_rows
from posttrain.errors import ConfigError

ROWS = [{"prompt": "p", "completion": "word " * n} for n in (1, 5, 10, 20, 50)]


def test_a_bound_is_read_and_holds() -> None:
    bound = Bound.of("language:code=de >= 0.5")
    assert bound.component.name == "language" and bound.component.settings == {"code": "de"}
    assert bound.holds(np.array([0.5, 0.4, np.nan])).tolist() == [True, False, False]
    percentile = Bound.of("tokens<p50")
    assert percentile.holds(np.array([1.0, 2, 3, np.nan])).tolist() == [True, False, False, False]
    assert Bound.of("ifd<1e-1").value == 0.1


@pytest.mark.parametrize("text", ["ifd", "ifd<", "ifd<one", "<1", "tokens<p101", "a=1<2"])
def test_what_is_no_bound_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        Bound.of(text)


def test_rows_within_all_bounds_are_left(tmp_path: Path) -> None:
    done = filter_rows(ROWS, ["completion_words>=5", "completion_words:<50".replace(":", "")])
    assert done.rows == ROWS[1:4]
    assert done.failed == {"completion_words>=5": 1, "completion_words<50": 1}
    assert "3 of 5" in str(done)
    output = tmp_path / "out.jsonl"
    filter_rows(ROWS, "completion_words>p40", output=output)
    assert [json.loads(line) for line in output.read_text().splitlines()] == ROWS[2:]
    assert [p.name for p in tmp_path.iterdir()] == ["out.jsonl"]


def test_rows_without_a_value_are_left_or_dropped() -> None:
    rows = [{"text": "the cat and the dog"}, {"text": "3 + 4 = 7"}]
    assert filter_rows(rows, "language>0.5").rows == rows
    done = filter_rows(rows, "language>0.5", unmeasured="drop")
    assert done.rows == rows[:1] and done.unmeasured == {"language>0.5": 1}


def test_a_number_of_rows_covers_the_data() -> None:
    kinds = ["apples and pears", "rockets and planets", "ships and harbours"]
    rows = [{"text": f"{kind} {i}"} for kind in kinds for i in range(5)]
    done = filter_rows(rows, [], num_rows=3)
    assert len(done.rows) == 3 and len({row["text"][:5] for row in done.rows}) == 3


@pytest.mark.parametrize(
    "wrong",
    [{"where": []}, {"where": "nothing<1"}, {"where": "ifd<1"}, {"where": [], "num_rows": 0}],
)
def test_what_cannot_be_done_is_refused_before_a_row_is_read(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        filter_rows("there/is/no/such/file.jsonl", **wrong)
