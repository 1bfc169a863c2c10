"""The states of an optimiser in shares: each process writes and reads its own, by PyTorch's
distributed checkpoints, and any number of processes may read what another number wrote.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.tensor import DTensor, distribute_tensor

from posttrain.errors import CheckpointError

PARTS = "optimizer"
"""The folder of a checkpoint with the shares of the optimiser's states."""


def write_states(optimizer: Any, folder: Path) -> None:
    """Write the optimiser's states, each process its shares. All processes call it."""
    dcp.save(_by_parameter(optimizer), checkpoint_id=folder / PARTS)


def read_states(optimizer: Any, folder: Path) -> None:
    """Take states that `write_states` wrote, from any number of processes; all processes call it.

    Raises:
        CheckpointError: they belong to another set of parameters.
    """
    reader = dcp.FileSystemReader(folder / PARTS)
    state: dict[str, Any] = {}
    for name, saved in reader.read_metadata().state_dict_metadata.items():
        place = int(name.split(".")[1])
        if place >= len(optimizer.parameters):
            raise CheckpointError(
                f"{folder} holds states of more than the {len(optimizer.parameters)} parameters "
                "that this run trains; load the model as it was, or start a new run"
            )
        parameter, size = optimizer.parameters[place], getattr(saved, "size", torch.Size())
        blank = torch.zeros(size, dtype=saved.properties.dtype)  # type: ignore[union-attr]
        state[name] = placed(blank, parameter)
    dcp.load(state, storage_reader=reader, no_dist=not torch.distributed.is_initialized())
    order = optimizer._order()
    number = {place: i for i, place in enumerate(order)}
    values: dict[int, dict[str, Any]] = {}
    masters: dict[int, Any] = {}
    for name, value in state.items():
        kind, where, *field = name.split(".")
        if kind == "master":
            masters[int(where)] = value
        else:
            values.setdefault(number[int(where)], {})[field[0]] = value
    groups = optimizer.rules["adamw"].state_dict()["param_groups"]
    optimizer.load_state_dict(
        {
            "adamw": {"state": values, "param_groups": groups},
            "order": order,
            "masters": masters,
        }
    )


def placed(value: Any, parameter: torch.Tensor) -> Any:
    """A whole tensor as its parameter lies: in shares where that does and the shapes are equal."""
    if not isinstance(value, torch.Tensor) or not isinstance(parameter, DTensor):
        return value
    if value.shape != parameter.shape or isinstance(value, DTensor):
        return value
    value = value.to(parameter.to_local().device)
    return distribute_tensor(value, parameter.device_mesh, parameter.placements)


def _by_parameter(optimizer: Any) -> dict[str, Any]:
    """The states of AdamW as "state.PLACE.NAME", float32 copies as "master.PLACE"."""
    state = optimizer.state_dict()
    flat = {
        f"state.{state['order'][number]}.{name}": value
        for number, values in state["adamw"]["state"].items()
        for name, value in values.items()
    }
    return flat | {f"master.{place}": value for place, value in state["masters"].items()}
