"""Mixtures of files and of rows in memory."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

import posttrain as pt
from posttrain.curation.mix import mix
from posttrain.errors import ConfigError, DataError

A = [{"prompt": f"a{i}", "completion": "x " * (i % 5 + 1)} for i in range(40)]
B = [{"prompt": f"b{i}", "completion": "y"} for i in range(10)]


def first_letters(rows: list[dict]) -> Counter[str]:
    return Counter(row["prompt"][0] for row in rows)


def test_shares(tmp_path: Path) -> None:
    assert first_letters(mix([A, B]).rows) == {"a": 40, "b": 10}
    assert first_letters(mix({"a": A, "b": B}, weights=[1, 1]).rows) == {"a": 10, "b": 10}
    done = mix([A, iter(B)], weights=[1, 1], num_rows=60)
    assert first_letters(done.rows) == {"a": 30, "b": 30}
    assert "3 times each" in str(done) and done.numbers == [30, 30]
    output = tmp_path / "mix.jsonl"
    assert mix([A, B], output=output).rows == []
    written = [json.loads(line) for line in output.read_text().splitlines()]
    assert first_letters(written) == {"a": 40, "b": 10}


def test_a_curriculum_by_a_measure_or_a_column() -> None:
    rows = mix([A, B], easiest="completion_words").rows
    lengths = [len(row["completion"].split()) for row in rows]
    assert lengths == sorted(lengths)
    graded = [{"prompt": "p", "completion": "c", "level": level} for level in (3, 1, 2)]
    ordered = mix([graded], easiest="level", difficulty="column").rows
    assert [row["level"] for row in ordered] == [1, 2, 3]
    with pytest.raises(DataError):
        mix([A], easiest="level", difficulty="column")
    with pytest.raises(ConfigError):
        mix([A], easiest="perplexity")
    with pytest.raises(ConfigError):
        mix([])


def test_a_recipe_mixes_as_it_reads(tmp_path: Path) -> None:
    from posttrain.data.rows import rows_of

    for name, rows in (("a", A), ("b", B)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sources = [
        {"path": str(tmp_path / "a.jsonl"), "weight": 1},
        {"path": str(tmp_path / "b.jsonl"), "weight": 3, "limit": 6},
    ]
    data = pt.Data(sources=sources, mixing_seed=3)
    assert first_letters(rows_of(data)) == {"a": 2, "b": 6}
    assert rows_of(data) == rows_of(data)
    assert first_letters(rows_of(pt.Data(sources=[s["path"] for s in sources]))) == {
        "a": 40,
        "b": 10,
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"path": "a", "sources": ["b"]},
        {"path": "a", "temperature": 2.0},
        {"sources": [{"path": "a", "weight": 1}, "b"]},
        {"sources": [{"path": "a", "weight": -1}]},
        {"sources": ["a"], "num_rows": 0},
    ],
)
def test_sources_that_make_no_sense_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError):
        pt.Data(**wrong)
