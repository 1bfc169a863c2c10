from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from posttrain.engines.room import Room, kv_bytes_of


def test_keys_and_values_may_take_a_quarter_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert kv_bytes_of(torch.device("cpu")) == 4 << 30
    device = SimpleNamespace(total_memory=80 << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda place: device)
    assert kv_bytes_of(torch.device("cuda")) == 20 << 30


def test_rows_and_tokens_are_bounded_over_all_schedules() -> None:
    room, one, other = Room(max_rows=4, max_kv_tokens=100), object(), object()
    assert room.admits(one, 4, 100) and not room.admits(one, 5, 50) and not room.admits(one, 2, 101)
    room.hold(one, 3, 60)
    assert room.admits(one, 4, 100)  # what it has itself is not counted twice
    assert not room.admits(other, 2, 30) and not room.admits(other, 2, 41)
    room.hold(one, 2, 60)
    assert room.admits(other, 2, 40) and not room.admits(other, 2, 41)
    room.leave(one)
    assert room.admits(other, 4, 100)
    room.leave(one)


def test_one_row_of_each_schedule_runs_whatever_it_needs() -> None:
    room, one, other = Room(max_rows=1, max_kv_tokens=10), object(), object()
    assert room.admits(one, 1, 999)
    room.hold(one, 1, 999)
    assert room.admits(other, 1, 5) and not room.admits(other, 2, 5)
