"""Answers on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from posttrain.errors import ConfigError
from posttrain.search.journal import Journal, call_key
from posttrain.types import Sample, Sampling

SAMPLES = [Sample([1, 2], [-0.5, -1.0], [-0.25, -1.0], "stop", "\n", 3, [((1, -0.25),), ()])]


def test_what_is_recorded_is_answered(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "calls.jsonl", {"task": "t"})
    journal.record("a", SAMPLES)
    journal.close()
    again = Journal(tmp_path / "calls.jsonl", {"task": "t"})
    assert again.answer("a") == SAMPLES and again.answer("b") is None and len(again) == 1


def test_half_a_line_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    journal = Journal(path, {})
    journal.record("a", SAMPLES)
    journal.record("b", SAMPLES)
    journal.close()
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        again = Journal(path, {})
        again.record("c", SAMPLES)
        again.close()
        again = Journal(path, {})
        whole_calls = max(whole[:cut].count(b"\n") - 1, 0)  # the first line is the header
        assert again.answer("c") == SAMPLES and len(again) == 1 + whole_calls
        again.close()


def test_another_search_is_refused(tmp_path: Path) -> None:
    Journal(tmp_path / "calls.jsonl", {"task": "t"}).close()
    with pytest.raises(ConfigError, match="another search"):
        Journal(tmp_path / "calls.jsonl", {"task": "u"})


def test_a_key_depends_on_all_that_fixes_samples() -> None:
    base = ((1, 2), Sampling(), 2, 0, 0)
    others = [
        ((1, 3), Sampling(), 2, 0, 0),
        ((1, 2), Sampling(temperature=0.5), 2, 0, 0),
        ((1, 2), Sampling(), 3, 0, 0),
        ((1, 2), Sampling(), 2, 1, 0),
        ((1, 2), Sampling(), 2, 0, 5),
    ]
    assert len({call_key(*call) for call in [base, *others]}) == 6
