"""A run in a process of its own that kills itself with SIGKILL at a given point."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any

_FILE_EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}


def run_in_process(
    raw: dict[str, Any], *, resume: bool, die_at: int | None, count: Path
) -> int | None:
    """Run a recipe in a fresh process; returns its exit code, -9 where it was killed.

    Args:
        die_at: the event at which it kills itself: a file operation below the run's folder, a
        forward or a backward pass,
            counted from 1. None: it lives. count: the file that takes the number of events of a run
            that lived.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["posttrain.methods.grpo", "posttrain.runs.recipe_run", "peft"])
    process = context.Process(target=_run, args=(raw, resume, die_at, str(count)))
    process.start()
    process.join(120)
    assert not process.is_alive()
    return process.exitcode


def _run(raw: dict[str, Any], resume: bool, die_at: int | None, count: str) -> None:
    import torch
    from rich.console import Console

    from posttrain.models.forest_model import ForestModel
    from posttrain.models.language_model import LanguageModel
    from posttrain.recipe import parse_recipe
    from posttrain.runs import run_of

    torch.set_num_threads(1)
    events = 0

    def event() -> None:
        nonlocal events
        events += 1
        if events == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(function: Any) -> Any:
        def call(*args: Any, **settings: Any) -> Any:
            event()
            return function(*args, **settings)

        return call

    def audit(name: str, args: tuple[Any, ...]) -> None:
        if name in _FILE_EVENTS and str(args[0]).startswith(raw["output"]):
            event()

    ForestModel.backward = counted(ForestModel.backward)  # type: ignore[method-assign]
    LanguageModel.forward = counted(LanguageModel.forward)  # type: ignore[method-assign]
    sys.addaudithook(audit)
    with Path(os.devnull).open("w") as nowhere:
        run_of(parse_recipe(raw), resume=resume, console=Console(file=nowhere)).execute()
    Path(count).write_text(str(events))
