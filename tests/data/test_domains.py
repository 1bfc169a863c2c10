"""Domains: what a folder holds, parts without a document in common, replayed rows."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.config import DataConfig
from posttrain.data.domains import (
    Domain,
    domains_of,
    read_split,
    text_of,
    write_mixture,
    write_split,
)
from posttrain.errors import ConfigError, DataError


def split_of(tmp_path: Path, rows: Any, held_out: Any = None, **changes: Any) -> tuple[list, list]:
    domain = Domain("d", DataConfig.of(rows), None if held_out is None else DataConfig.of(held_out))
    settings: dict[str, Any] = {
        "held_out_share": 0.3,
        "max_characters": None,
        "held_out_characters": 10**6,
        **changes,
    }
    split = write_split(domain, tmp_path, **settings)
    parts = list(read_split(split.train)), list(read_split(split.held_out))
    assert (split.num_train, split.num_held_out) == (len(parts[0]), len(parts[1]))
    assert split.characters == sum(len(text_of(row)) for row in parts[0])
    return parts


def texts(number: int) -> list[dict[str, str]]:
    return [{"text": f"document {i} of many"} for i in range(number)]


def test_domains_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("one\n\ntwo\n")
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as stream:
        stream.write('{"text": "x"}\n')
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "x.train.txt").write_text("three\n")
    (tmp_path / "c" / "x.test.txt").write_text("four\n")
    (tmp_path / "README.md").write_text("no data\n")
    (tmp_path / ".hidden.txt").write_text("no\n")
    domains = domains_of(DataConfig(str(tmp_path), document="line"))
    assert [d.name for d in domains] == ["a", "b", "c"]
    assert all(d.data.document == "line" for d in domains)
    assert domains[1].held_out is None
    assert domains[2].held_out is not None
    assert domains[2].held_out.path.endswith("x.test.txt")
    assert domains[2].data.path.endswith("x.train.txt")


@pytest.mark.parametrize("names", [(), ("a.txt",), ("a.txt", "a.txt.gz"), ("a.txt", "b c.txt")])
def test_folders_that_hold_no_stream(tmp_path: Path, names: tuple[str, ...]) -> None:
    for name in names:
        (tmp_path / name).write_text("text\n")
    with pytest.raises(ConfigError):
        domains_of(DataConfig(str(tmp_path)))


def test_two_held_out_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text\n")
    (tmp_path / "b").mkdir()
    for name in ("train.txt", "test.txt", "valid.txt"):
        (tmp_path / "b" / name).write_text("text\n")
    with pytest.raises(ConfigError):
        domains_of(DataConfig(str(tmp_path)))


def test_a_file_is_no_folder_of_domains(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text\n")
    with pytest.raises(ConfigError):
        domains_of(DataConfig(str(tmp_path / "a.txt")))


def test_parts_have_nothing_in_common(tmp_path: Path) -> None:
    rows = texts(400) + texts(400) + [{"text": row["text"].replace(" ", "  ")} for row in texts(99)]
    train, held_out = split_of(tmp_path, rows)

    def words(part: list) -> set[str]:
        return {" ".join(row["text"].split()) for row in part}

    assert words(train).isdisjoint(words(held_out))
    assert len(words(train)) + len(words(held_out)) == 400
    assert 0.2 < len(words(held_out)) / 400 < 0.4
    assert len(train) + len(held_out) == len(rows)


def test_a_held_out_file_is_not_trained_on(tmp_path: Path) -> None:
    train, held_out = split_of(tmp_path, texts(20), texts(30)[10:])
    assert [row["text"].split()[1] for row in train] == [str(i) for i in range(10)]
    assert len(held_out) == 20


def test_sizes_are_bounded_and_the_split_stays(tmp_path: Path) -> None:
    """Rows beyond the bound of the held-out part are not trained on."""
    everything = split_of(tmp_path, texts(300))
    bounded = split_of(tmp_path, texts(300), max_characters=1000, held_out_characters=500)
    for whole, part, limit in zip(everything, bounded, (1000, 500), strict=True):
        assert part == whole[: len(part)]
        assert limit <= sum(len(row["text"]) for row in part) < limit + 30


def test_a_domain_of_one_document_is_refused(tmp_path: Path) -> None:
    (tmp_path / "whole.txt").write_text("one\n\ntwo\n")
    with pytest.raises(DataError):
        split_of(tmp_path, DataConfig(str(tmp_path / "whole.txt"), document="file"))
    assert not list(tmp_path.glob("d.*"))


def test_text_files_are_documents(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("".join(f"first {i}\nsecond\n\n" for i in range(40)))
    train, held_out = split_of(tmp_path, DataConfig(str(file), limit=30))
    assert len(train) + len(held_out) == 30
    assert all(row["text"].endswith("\nsecond") for row in train + held_out)


def test_text_of_rows() -> None:
    assert text_of({"text": "a", "more": "b"}) == "a"
    assert text_of({"prompt": "a", "completion": "b", "weight": 1.0}) == "a b"
    assert text_of({"messages": [{"role": "user", "content": "c"}]}) == "user c"


def written(path: Path, name: str, number: int) -> Path:
    rows = [{"text": f"{name} {i:04d} é"} for i in range(number)]
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
    return path


def test_a_share_of_the_characters_is_replayed(tmp_path: Path) -> None:
    own = written(tmp_path / "own", "o", 300)
    old = [written(tmp_path / name, name, 100) for name in ("a", "b")]
    write_mixture(tmp_path / "m", own, old, share=0.25, max_characters=None, seed=1)
    kinds = [row["text"][0] for row in read_split(tmp_path / "m")]
    assert (kinds.count("o"), kinds.count("a"), kinds.count("b")) == (300, 50, 50)
    once = [row["text"] for row in read_split(tmp_path / "m")]
    assert len(set(once)) == len(once)
    write_mixture(tmp_path / "n", own, old, share=0.25, max_characters=None, seed=2)
    assert [row["text"] for row in read_split(tmp_path / "n")] != once


def test_a_mixture_without_replay_is_the_beginning(tmp_path: Path) -> None:
    own = written(tmp_path / "own", "o", 300)
    write_mixture(tmp_path / "m", own, [], share=0.0, max_characters=80, seed=1)
    assert list(read_split(tmp_path / "m")) == list(read_split(own))[:10]
