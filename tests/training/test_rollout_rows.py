"""The completions of a round as a file."""

from __future__ import annotations

import json
from pathlib import Path

from posttrain.training.hooks import group_as_json
from posttrain.training.rollout_rows import RolloutRow, read_rows, write_rows
from posttrain.types import Example, Sample, Trace, TraceGroup


def row(hinted: bool = False) -> RolloutRow:
    texts = ["4", "5\u2028\ud800"]
    samples = [Sample([7, 8 + i], [-0.1] * 2, [-0.1] * 2, "length") for i in range(2)]
    traces = [
        Trace.of_sample((1, 2, 3), sample, text, {"task": 0.1 + i}, i / 3)
        for i, (sample, text) in enumerate(zip(samples, texts, strict=True))
    ]
    traces[1].error, traces[1].rewards = "ValueError", {"task": None}
    group = TraceGroup(Example("2+2=", answer=4, id="a"), (1, 2, 3), traces)
    return RolloutRow(6, group, (1, 0), hinted)


def test_a_file_gives_back_what_is_trained_on_and_reported(tmp_path: Path) -> None:
    rows = [row(), row(hinted=True)]
    write_rows(tmp_path / "rows.jsonl", rows)
    again = read_rows(tmp_path / "rows.jsonl")
    assert [r.hinted for r in again] == [False, True]
    for before, after in zip(rows, again, strict=True):
        assert (after.step, after.selected) == (6, (1, 0))
        assert after.group.prompt_ids == (1, 2, 3)
        assert [r.sample.ids for r in after.chosen] == [[7, 9], [7, 8]]
        assert group_as_json(6, after.group) == group_as_json(6, before.group)
    first = json.loads((tmp_path / "rows.jsonl").read_text().split("\n")[0])
    assert first["completions"][0]["ids"] == [7, 8] and first["selected"] == [1, 0]


def test_no_file_has_no_rows(tmp_path: Path) -> None:
    assert read_rows(tmp_path / "rows.jsonl") == []
