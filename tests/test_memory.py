"""The garbage collector rests where many objects are made, and only there."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
from support import write

from posttrain.data.rows import load_rows
from posttrain.errors import DataError
from posttrain.memory import may_pause_collection, without_collection


@pytest.fixture(autouse=True)
def allowed() -> None:
    may_pause_collection(True)


def test_without_permission_nothing_is_paused() -> None:
    may_pause_collection(False)
    with without_collection():
        assert gc.isenabled()


def test_the_last_thread_that_ends_lets_it_go_on() -> None:
    """The first to begin ends before the second."""
    scopes = [without_collection(), without_collection()]
    for scope in scopes:
        scope.__enter__()
    scopes[0].__exit__(None, None, None)
    assert not gc.isenabled()
    scopes[1].__exit__(None, None, None)
    assert gc.isenabled()


def test_collection_goes_on_as_before() -> None:
    assert gc.isenabled()
    with pytest.raises(ZeroDivisionError), without_collection():
        with without_collection():
            assert not gc.isenabled()
        assert not gc.isenabled()  # who is within another is not the one to end it
        _ = 1 / 0
    assert gc.isenabled()
    gc.disable()
    try:
        with without_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_rows_are_read_without_it_and_a_broken_file_brings_it_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    is_file = Path.is_file
    monkeypatch.setattr(Path, "is_file", lambda self: seen.append(gc.isenabled()) or is_file(self))
    load_rows(write(tmp_path / "rows.jsonl", [{"text": "one"}]))
    assert seen and not any(seen) and gc.isenabled()
    with pytest.raises(DataError):
        load_rows(tmp_path / "none.jsonl")
    assert gc.isenabled()
