"""Files are whole or absent."""

from __future__ import annotations

from pathlib import Path

import pytest

from posttrain.files import remove_partial, write_text_whole, written_whole


def test_an_error_leaves_the_old_folder(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    write_text_whole(folder / "x", "old")
    with pytest.raises(ZeroDivisionError), written_whole(folder) as partial:
        (partial / "x").write_text("new")
        raise ZeroDivisionError
    assert (folder / "x").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_what_was_being_replaced_comes_back(tmp_path: Path) -> None:
    (tmp_path / ".a.old-7").mkdir()
    (tmp_path / ".b.partial-7").write_text("half")
    remove_partial(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
