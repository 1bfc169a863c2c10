from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from posttrain.errors import CheckpointError
from posttrain.training.checkpoint import (
    checkpoints,
    load_checkpoint,
    prune_checkpoints,
    remove_partial,
    save_checkpoint,
    write_text_whole,
    written_whole,
)
from posttrain.training.optim import Optimizer


def optimizer() -> Optimizer:
    return Optimizer([nn.Parameter(torch.ones(2, 2))], steps=10, learning_rate=0.1)


def save(folder: Path, step: int) -> Path:
    return save_checkpoint(
        folder,
        step,
        save_model=lambda p: (p / "weights").write_text(str(step)),
        optimizer=optimizer(),
        state={"x": step},
    )  # type: ignore[arg-type, return-value]


def test_round_trip_with_random_states(tmp_path: Path) -> None:
    save(tmp_path, 3)
    drawn = (torch.rand(1), random.random(), np.random.rand())
    state = load_checkpoint(tmp_path / "checkpoint-3", optimizer())
    assert state == {"global_step": 3, "x": 3}
    assert (torch.rand(1), random.random(), np.random.rand()) == drawn


def test_newest_are_kept_and_order_is_by_number(tmp_path: Path) -> None:
    for step in (2, 10, 9):
        save(tmp_path, step)
    assert [p.name for p in checkpoints(tmp_path)] == ["checkpoint-2", "checkpoint-9", "checkpoint-10"]
    prune_checkpoints(tmp_path, 2)
    assert [p.name for p in checkpoints(tmp_path)] == ["checkpoint-9", "checkpoint-10"]


def test_a_failure_leaves_the_old_one_and_no_trace(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with written_whole(target) as partial:
        (partial / "a").write_text("old")
    with pytest.raises(RuntimeError, match="boom"), written_whole(target) as partial:
        (partial / "a").write_text("new")
        raise RuntimeError("boom")
    assert (target / "a").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("I/O error: No space left on device (os error 28)")]
)
def test_a_full_disk_is_told_with_the_way_out(tmp_path: Path, error: Exception) -> None:
    save(tmp_path, 1)

    def full(folder: Path) -> None:
        (folder / "weights").write_text("half")
        raise error

    with pytest.raises(CheckpointError, match=r"could not write .*checkpoint-2.*MiB are free.*posttrain resume"):
        save_checkpoint(tmp_path, 2, save_model=full, optimizer=optimizer(), state={})
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-1"]


def test_half_written_folders_are_not_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-7").mkdir()
    (tmp_path / ".checkpoint-8.partial-1").mkdir()
    assert checkpoints(tmp_path) == []
    remove_partial(tmp_path)
    assert not (tmp_path / ".checkpoint-8.partial-1").exists()


def test_a_broken_checkpoint_is_named(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    (folder / "optimizer.pt").write_bytes(b"rubbish")
    with pytest.raises(CheckpointError, match=r"checkpoint-1 cannot be read.*Remove it"):
        load_checkpoint(folder, optimizer())


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
