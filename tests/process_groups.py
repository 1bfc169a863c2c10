"""Functions run by several processes that join one world, as torchrun would start them."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

PRELOADED = ["torch.distributed", "posttrain.methods.grpo", "posttrain.methods.fit", "peft"]


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return int(place.getsockname()[1])


def start(size: int, function: Callable[..., Any], *arguments: Any, folder: Path) -> list[Any]:
    """Start the processes; each writes what the function returns, or raises, to `folder`."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    processes = [
        context.Process(target=_run, args=(rank, size, port, folder, function, arguments))
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    return processes


def outcomes(
    size: int, function: Callable[..., Any], *arguments: Any, folder: Path, seconds: float = 120
) -> list[Any]:
    """What the function returned in each process, or the error that it raised; None for a process
    that was killed.
    """
    processes = start(size, function, *arguments, folder=folder)
    for process in processes:
        process.join(seconds)
    hanging = [rank for rank, process in enumerate(processes) if process.is_alive()]
    for rank in hanging:
        processes[rank].kill()
    assert not hanging, f"ranks {hanging} of {size} were still running after {seconds} seconds"
    files = [folder / f"{rank}.pickle" for rank in range(size)]
    return [pickle.loads(f.read_bytes()) if f.exists() else None for f in files]


def results(
    size: int, function: Callable[..., Any], *arguments: Any, folder: Path, seconds: float = 120
) -> list[Any]:
    """As `outcomes`, where no process may fail."""
    values = outcomes(size, function, *arguments, folder=folder, seconds=seconds)
    for value in values:
        if isinstance(value, BaseException):
            raise value
        assert value is not None, "a process was killed"
    return values


def _run(
    rank: int,
    size: int,
    port: int,
    folder: Path,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    import torch

    torch.set_num_threads(1)
    try:
        value = function(*arguments)
    except BaseException as error:
        import traceback

        error.add_note(traceback.format_exc())
        value = error
    partial = folder / f"{rank}.partial"
    partial.write_bytes(pickle.dumps(value))
    partial.rename(folder / f"{rank}.pickle")
    os._exit(1 if isinstance(value, BaseException) else 0)
