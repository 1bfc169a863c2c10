"""Text files within bounds, and JSON that can be tokenised and written."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import Any

import pytest

from posttrain.data import text_files
from posttrain.data.text_files import lines_of, opened, parsed_json, refuse_half_characters
from posttrain.errors import DataError


def read(path: Path) -> list[str]:
    with opened(path) as stream:
        return list(lines_of(stream, path))


def test_plain_and_compressed_files_have_the_same_lines(tmp_path: Path) -> None:
    text = "one\ntwo \u00e4\n\nlast"
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(text.encode()))
    expected = ["one\n", "two \u00e4\n", "\n", "last"]
    assert read(tmp_path / "a.txt") == read(tmp_path / "a.txt.gz") == expected


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfprompt\n")
    assert read(tmp_path / "a.csv") == ["prompt\n"]


def test_the_line_of_a_wrong_byte_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"good\nf\xfcr\n")
    with pytest.raises(DataError, match=r"a\.txt.*0xfc in line 2"):
        read(tmp_path / "a.txt")
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"f\xfcr\n"))
    with pytest.raises(DataError, match="0xfc"):
        read(tmp_path / "a.txt.gz")


@pytest.mark.parametrize(
    "content", [b"no gzip", gzip.compress(b"x" * 5000)[:-12]], ids=["no gzip", "cut"]
)
def test_a_damaged_archive_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.gz"):
        read(tmp_path / "a.gz")


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.txt"):
        read(tmp_path / "absent.txt")


def test_an_archive_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_files, "GZIP_FREE", 1000)
    monkeypatch.setattr(text_files, "GZIP_RATIO", 2)
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(b"a\n" * 100_000))
    with pytest.raises(DataError, match=r"bomb\.gz"):
        read(tmp_path / "bomb.gz")
    (tmp_path / "small.gz").write_bytes(gzip.compress(b"a\n" * 400))
    assert len(read(tmp_path / "small.gz")) == 400


def test_the_longest_line_passes_and_a_longer_one_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(text_files, "MAX_LINE", 5)
    assert list(lines_of(io.StringIO("1234\n1234\n"), Path("a"))) == ["1234\n", "1234\n"]
    with pytest.raises(DataError, match="a:2"):
        list(lines_of(io.StringIO("1234\n123456\n"), Path("a")))


@pytest.mark.parametrize(
    "text", ["{", "[" * 100_000, "1" * 5000, r'"\ud83d"', r'{"a": ["\udc00"]}', r'{"\ud800": 1}']
)
def test_json_that_cannot_be_used_names_its_place(text: str) -> None:
    with pytest.raises(DataError, match=r"rows\.jsonl:3"):
        parsed_json(text, "rows.jsonl:3")


def test_whole_characters_pass() -> None:
    assert parsed_json(r'{"a": "\ud83d\ude00"}', "x") == {"a": "\U0001f600"}
    value: Any = {"a": ["\u00e4", {"b": 1}], "c": None}
    refuse_half_characters(value, "x")
    with pytest.raises(DataError, match="x"):
        refuse_half_characters({"a": [["\ud800"]]}, "x")
