from __future__ import annotations

import io
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from support import told

from posttrain.training.ending import Interrupted, stop_on_signal
from posttrain.training.loop import State

SFT: dict[str, Any] = {
    "method": "sft",
    "task": {"name": "arithmetic", "num_examples": 20, "num_steps": 1},
    "batch_size": 4,
    "learning_rate": 1e-3,
    "max_steps": 4,
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_signal_saves(
    number: signal.Signals, run_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    from posttrain.training import hooks

    real = hooks.MetricsWriter.__call__

    def stop(self: Any, step: int, metrics: dict[str, float]) -> None:
        real(self, step, metrics)
        if step == 2:
            os.kill(os.getpid(), number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hooks.MetricsWriter, "__call__", stop)
        with pytest.raises(
            Interrupted, match="stopped after step 2 of 4; go on with: posttrain resume"
        ):
            run_recipe(**SFT, output=str(tmp_path / "half"))
    assert (tmp_path / "half" / "checkpoint-2").is_dir()
    half = run_recipe(**SFT, output=str(tmp_path / "half"), resume=True)
    assert told(half) == told(run_recipe(**SFT, output=str(tmp_path / "whole")))


def test_the_second_one_says_what_is_lost(tmp_path: Path) -> None:
    state, out = State(step=7, last_checkpoint="runs/a/checkpoint-5"), io.StringIO()
    with stop_on_signal(state, Console(file=out, width=200), f"posttrain resume {tmp_path}"):
        os.kill(os.getpid(), signal.SIGINT)
        assert state.stop and "Ctrl-C: finishing this step, then saving" in out.getvalue()
        with pytest.raises(
            Interrupted, match=r"stopped at once.*7 steps.*checkpoint-5.*lost.*posttrain resume"
        ) as stopped:
            os.kill(os.getpid(), signal.SIGINT)
    assert str(tmp_path) in str(stopped.value)


def test_an_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    """As nohup sets it."""
    state = State()
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_on_signal(state, Console(file=io.StringIO()), tmp_path):
            os.kill(os.getpid(), signal.SIGHUP)
            assert not state.stop
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_terminal_that_has_gone_does_not_keep_a_run_from_saving(tmp_path: Path) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    state = State()
    console = Console(file=Gone())
    with stop_on_signal(state, console, tmp_path):
        os.kill(os.getpid(), signal.SIGHUP)
        assert state.stop
        console.print("more")  # nothing is raised
