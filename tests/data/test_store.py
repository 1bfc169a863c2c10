from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posttrain.data.forest import TokenSequence
from posttrain.data.store import SequenceStore, read_record, record
from posttrain.errors import DataError


def sequences(num: int = 50) -> list[TokenSequence]:
    draw = np.random.default_rng(0)
    rows = []
    for i in range(num):
        length = int(draw.integers(1, 40))
        mask = draw.random(length) < 0.5
        mask[0] = False
        ids = draw.integers(0, 70_000 if i % 7 == 0 else 500, length)
        streams = {"weights": draw.random(length).astype(np.float32)} if i % 3 == 0 else {}
        rows.append(
            TokenSequence(ids, mask, streams, {"label": float(draw.random())}, row=f"rôw {i}")
        )
    return rows


def same(a: TokenSequence, b: TokenSequence) -> bool:
    return (
        a.ids.tolist() == b.ids.tolist()
        and a.ids.dtype == b.ids.dtype == np.int64
        and a.loss_mask.tolist() == b.loss_mask.tolist()
        and a.streams.keys() == b.streams.keys()
        and all(
            np.array_equal(a.streams[k], b.streams[k]) and b.streams[k].dtype == np.float32
            for k in a.streams
        )
        and (a.values, a.row) == (b.values, b.row)
    )


def filled(memory_tokens: int, folder: Path) -> SequenceStore:
    store = SequenceStore(folder, memory_tokens=memory_tokens)
    for sequence in sequences():
        store.append(sequence)
    return store


@pytest.mark.parametrize("memory_tokens", [0, 300, 10**9])
def test_memory_and_disk_give_what_was_put_in(tmp_path: Path, memory_tokens: int) -> None:
    store = filled(memory_tokens, tmp_path / "new" / "folder")
    expected = sequences()
    assert store.on_disk == (memory_tokens < 10**9)
    assert len(store) == 50 and all(same(a, b) for a, b in zip(expected, store, strict=True))
    for i in (49, 3, 0, 3, -1):  # in any order, and again
        assert same(store[i], expected[i])
    assert [s.row for s in store[10:13]] == ["rôw 10", "rôw 11", "rôw 12"]
    assert store.lengths.tolist() == [len(s.ids) for s in expected]
    assert store.num_tokens == sum(len(s.ids) for s in expected)
    assert store.num_trained == sum(int(s.loss_mask.sum()) for s in expected)
    ends = [int(s.ids[s.loss_mask][-1]) if s.loss_mask.any() else -1 for s in expected]
    assert store.last_trained.tolist() == ends
    with pytest.raises(IndexError):
        store[50]


def test_nothing_is_left_in_the_folder(tmp_path: Path) -> None:
    store = filled(0, tmp_path)
    assert len(store[0].ids) and not list(tmp_path.iterdir())  # the file has no name


@pytest.mark.parametrize("memory_tokens", [0, 10**9])
def test_fill_completes_a_stream(tmp_path: Path, memory_tokens: int) -> None:
    store = filled(memory_tokens, tmp_path)
    store.fill("weights", 1.0)
    for i, (before, after) in enumerate(zip(sequences(), store, strict=True)):
        expected = before.streams["weights"] if i % 3 == 0 else np.ones(len(before.ids))
        assert np.array_equal(after.streams["weights"], expected)


def test_fingerprint_tells_any_difference(tmp_path: Path) -> None:
    first = filled(0, tmp_path).fingerprint()
    assert first == filled(0, tmp_path).fingerprint()

    def changed(change: Any) -> str:
        store = SequenceStore(tmp_path, memory_tokens=0)
        rows = sequences()
        change(rows)
        for row in rows:
            store.append(row)
        return store.fingerprint()

    def flip(rows: list[TokenSequence]) -> None:
        rows[4].loss_mask[-1] = not rows[4].loss_mask[-1]

    def nudge(rows: list[TokenSequence]) -> None:
        rows[4].ids[0] += 1

    def value(rows: list[TokenSequence]) -> None:
        rows[4].values["label"] += 1e-9

    digests = {changed(c) for c in (flip, nudge, value, list.reverse, list.pop)}
    assert len(digests) == 5 and first not in digests


def test_records_are_compact_and_exact() -> None:
    one = TokenSequence(np.arange(1000), np.arange(1000) > 0, row="a")
    assert len(record(one)) < 1000 * 2 + 1000 / 8 + 120 and same(read_record(record(one)), one)
    big = TokenSequence(
        np.array([70_000, 2]), np.array([False, True]), values={"reward": float("nan")}, row="b"
    )
    again = read_record(record(big))
    assert again.ids.tolist() == [70_000, 2] and np.isnan(again.values["reward"])


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written to .*file.*POSTTRAIN_CACHE"):
        filled(0, tmp_path / "file")
