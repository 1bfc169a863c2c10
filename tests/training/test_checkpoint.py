from __future__ import annotations

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
    read_state,
    remove_partial,
    save_checkpoint,
    write_text_whole,
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
    assert read_state(tmp_path / "checkpoint-3") == {"global_step": 3, "x": 3}
    load_checkpoint(tmp_path / "checkpoint-3", optimizer())
    assert (torch.rand(1), random.random(), np.random.rand()) == drawn


def test_newest_are_kept_and_order_is_by_number(tmp_path: Path) -> None:
    for step in (2, 10, 9):
        save(tmp_path, step)
    assert [p.name for p in checkpoints(tmp_path)] == [
        "checkpoint-2",
        "checkpoint-9",
        "checkpoint-10",
    ]
    prune_checkpoints(tmp_path, 2)
    assert [p.name for p in checkpoints(tmp_path)] == ["checkpoint-9", "checkpoint-10"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
        RuntimeError(
            "[enforce fail at inline_container.cc:672] . unexpected pos 2112 vs 2006\nmore"
        ),
    ],
)
def test_a_full_disk_is_told_with_the_way_out(tmp_path: Path, error: Exception) -> None:
    save(tmp_path, 1)

    def full(folder: Path) -> None:
        (folder / "weights").write_text("half")
        raise error

    with pytest.raises(CheckpointError, match=r"checkpoint-2.*MiB.*posttrain resume"):
        save_checkpoint(tmp_path, 2, save_model=full, optimizer=optimizer(), state={})
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-1"]


def test_half_written_folders_are_not_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-7").mkdir()
    (tmp_path / ".checkpoint-8.partial-1").mkdir()
    assert checkpoints(tmp_path) == []
    remove_partial(tmp_path)
    assert not (tmp_path / ".checkpoint-8.partial-1").exists()


def test_every_damaged_bit_is_noticed(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    whole = {path: path.read_bytes() for path in sorted(folder.iterdir())}
    draw = random.Random(0)
    for path, content in whole.items():
        for place in {0, len(content) - 1, *(draw.randrange(len(content)) for _ in range(20))}:
            damaged = bytearray(content)
            damaged[place] ^= 1 << draw.randrange(8)
            path.write_bytes(bytes(damaged))
            with pytest.raises(CheckpointError, match=path.name):
                read_state(folder)
        path.unlink()
        with pytest.raises(CheckpointError, match=path.name):
            read_state(folder)
        path.write_bytes(content)
    assert read_state(folder) == {"global_step": 1, "x": 1}


def test_a_whole_checkpoint_of_another_model_does_not_advise_removal(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    other = Optimizer(
        [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2, 2))], steps=10, learning_rate=0.1
    )
    with pytest.raises(CheckpointError, match="1 parameters.* 2") as error:
        load_checkpoint(folder, other)
    assert "emove" not in str(error.value)


@pytest.mark.parametrize("stage", ["partial", "old"])
def test_a_folder_killed_while_it_is_replaced_comes_back(tmp_path: Path, stage: str) -> None:
    """Between the two renames the old one has a hidden name and the new one is not there yet."""
    save(tmp_path, 4)
    if stage == "old":
        (tmp_path / "checkpoint-4").rename(tmp_path / ".checkpoint-4.old-7")
    (tmp_path / ".checkpoint-4.partial-7").mkdir()
    remove_partial(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-4"]
    assert read_state(tmp_path / "checkpoint-4")["x"] == 4


def test_names_are_flushed_after_a_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from posttrain import files

    events: list[tuple[str, str]] = []
    real = files.flush
    monkeypatch.setattr(
        files, "flush", lambda path: (events.append(("flush", path.name)), real(path))[1]
    )
    save(tmp_path, 1)
    names = [name for _, name in events]
    partial = next(name for name in names if name.startswith(".checkpoint-1.partial"))
    # Every file, then the folder that lists them, then, after the rename, the folder that lists it.
    assert (
        names.index("optimizer.pt")
        < names.index(partial)
        < names.index(tmp_path.name)
        == len(names) - 1
    )
    events.clear()
    write_text_whole(tmp_path / "a.json", "{}")
    assert events == [("flush", tmp_path.name)]
