"""Checkpoints of several processes, which other numbers of processes go on from."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from process_groups import results
from world_cases import ROWS

import posttrain as pt
from posttrain.errors import CheckpointError
from posttrain.training.optim import Optimizer
from posttrain.training.sharded_states import read_states

STEPS = 3


def run(model: Path, output: Path, shard: Any, resume: bool) -> dict[str, Any]:
    """A short training that saves after each step; its weights and losses."""
    from rich.console import Console

    result = pt.fit(
        str(model),
        pt.sft(ROWS, batch_size=5, learning_rate=1e-3),
        steps=STEPS,
        output=str(output),
        save_every=1,
        save_total_limit=STEPS,
        shard=shard,
        resume=resume,
        console=Console(quiet=True),
    )
    return {
        "weights": {n: p.detach().numpy().copy() for n, p in result.model.hf.named_parameters()},
        "losses": [row["loss"] for row in result.metrics],
        "files": sorted(p.relative_to(output).as_posix() for p in output.rglob("*")),
    }


@pytest.mark.timeout(1200)
def test_any_number_of_processes_goes_on(tiny_folder: Path, tmp_path: Path) -> None:
    whole = results(
        2, run, tiny_folder, tmp_path / "run", "full", False, folder=tmp_path / "2", seconds=400
    )
    assert "checkpoint-1/optimizer/.metadata" in whole[0]["files"]
    assert not any("partial" in name for name in whole[0]["files"])
    for number, (size, shard) in enumerate([(1, "off"), (4, 2)]):
        copy = tmp_path / f"copy-{number}"
        shutil.copytree(tmp_path / "run", copy)
        for late in ("checkpoint-2", "checkpoint-3", "model"):  # as if it had been killed
            shutil.rmtree(copy / late)
        again = results(
            size, run, tiny_folder, copy, shard, True, folder=tmp_path / f"on-{size}", seconds=400
        )
        for rank in again:
            assert rank["losses"] == pytest.approx(whole[0]["losses"], abs=1e-5)
            for name, weight in whole[0]["weights"].items():
                # An update is about 1e-3: moments that were lost would show.
                assert abs(rank["weights"][name] - weight).max() < 3e-5, name
    plain = (tmp_path / "run" / "model").iterdir()
    assert {"config.json", "model.safetensors"} <= {p.name for p in plain}


def test_states_of_more_parameters_are_refused(tmp_path: Path) -> None:
    import torch
    import torch.distributed.checkpoint as dcp

    dcp.save({"state.4.exp_avg": torch.ones(2)}, checkpoint_id=tmp_path / "optimizer", no_dist=True)
    optimizer = Optimizer([torch.nn.Parameter(torch.ones(2))], steps=1, learning_rate=0.1)
    with pytest.raises(CheckpointError, match="1 parameters"):
        read_states(optimizer, tmp_path)
