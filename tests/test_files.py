"""Files are whole or absent."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from posttrain.files import remove_partial, write_text_whole, written_whole


def test_what_was_being_replaced_comes_back(tmp_path: Path) -> None:
    (tmp_path / ".a.old-7").mkdir()
    (tmp_path / ".b.partial-7").write_text("half")
    remove_partial(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_failure_leaves_the_old_one_and_no_trace(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with written_whole(target) as partial:
        (partial / "a").write_text("old")
    with pytest.raises(RuntimeError, match="boom"), written_whole(target) as partial:
        (partial / "a").write_text("new")
        raise RuntimeError("boom")
    assert (target / "a").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_text_never_goes_through_a_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in (f".a.json.partial-{os.getpid()}", "a.json"):
        (tmp_path / name).symlink_to(victim)
    write_text_whole(tmp_path / "a.json", "{}")
    assert victim.read_text() == "precious" and (tmp_path / "a.json").read_text() == "{}"
    assert not (tmp_path / "a.json").is_symlink()


def test_text_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_text_whole(path, json.dumps({"a": 1}))
    write_text_whole(path, json.dumps({"a": 2}))
    assert json.loads(path.read_text()) == {"a": 2}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_text_that_cannot_be_written_leaves_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.mkdir()
    with pytest.raises(OSError):
        write_text_whole(path, "{}")
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_folders_are_replaced_too(tmp_path: Path) -> None:
    for number in (1, 2):
        with written_whole(tmp_path / "a") as partial:
            (partial / str(number)).touch()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["2"]
