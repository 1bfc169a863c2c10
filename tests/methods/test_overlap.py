"""GRPO whose completions are sampled in another process: numbers, resumes, and ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from child_processes import children, gone
from policy_runs import GRPO
from support import lines, stopped_and_resumed, told, weights

from posttrain.config import OverlapConfig
from posttrain.errors import ConfigError, EngineLost
from posttrain.methods.policy_checks import check
from posttrain.recipe import parse_recipe
from posttrain.runs import run_of
from posttrain.types import Sampling

CREDIT = {"importance_correction": "token_truncate"}
OVERLAPPED: dict[str, Any] = {
    **GRPO,
    "credit": CREDIT,
    "overlap": {"max_staleness": 1},
    "max_steps": 4,
    "save_every": 1,
}


def test_in_turn_is_as_in_one_process_bit_for_bit(
    run_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    raw = {**GRPO, "max_steps": 3}
    alone = run_recipe(**raw, output=str(tmp_path / "alone"))
    beside = run_recipe(**raw, overlap={"max_staleness": 0}, output=str(tmp_path / "beside"))
    assert weights(beside) == weights(alone)
    assert lines(beside / "rollouts.jsonl") == lines(alone / "rollouts.jsonl")
    assert told(beside) == told(alone)
    assert children() == []


def test_a_run_ahead_repeats_itself_and_resumes_to_the_bit(
    run_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    whole, resumed = stopped_and_resumed(run_recipe, tmp_path, 2, **OVERLAPPED)
    assert weights(resumed) == weights(whole)
    assert lines(resumed / "rollouts.jsonl") == lines(whole / "rollouts.jsonl")
    assert told(resumed) == told(whole)
    shown = told(whole)
    assert [row["sampling/staleness/max"] for row in shown] == [0.0, 1.0, 1.0, 1.0]
    assert shown[0]["sampling/importance_sampling_ratio/mean"] == pytest.approx(1, abs=1e-4)
    assert all(row["sampling/groups_dropped"] == 0 for row in shown)
    waits = [row["sampling/trainer_wait_seconds"] for row in lines(whole / "metrics.jsonl")]
    assert waits[0] > 0 and children() == []


def test_weights_change_in_flight(run_recipe: Callable[..., Path]) -> None:
    overlap = {"max_staleness": 2, "in_flight": True}
    folder = run_recipe(**{**OVERLAPPED, "overlap": overlap, "max_steps": 5})
    shown = told(folder)
    assert len(shown) == 5
    assert all(row["sampling/staleness/max"] <= 2 for row in shown)
    assert children() == []


def test_a_process_that_dies_ends_the_run_which_goes_on(
    run_recipe: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from posttrain.training import hooks

    real = hooks.MetricsWriter.__call__

    def kill(self: Any, step: int, metrics: dict[str, float]) -> None:
        real(self, step, metrics)
        if step == 2:
            (child,) = children()
            os.kill(child, signal.SIGKILL)

    raw = {**OVERLAPPED, "output": str(tmp_path / "killed")}
    with monkeypatch.context() as patch:
        patch.setattr(hooks.MetricsWriter, "__call__", kill)
        with pytest.raises(EngineLost, match="has died .by signal SIGKILL.*posttrain resume"):
            run_recipe(**raw)
    folder = run_recipe(**raw, resume=True)
    assert [row["step"] for row in lines(folder / "metrics.jsonl")] == [1, 2, 3, 4]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_process_is_left_behind(number: int, tiny_folder: Path, tmp_path: Path) -> None:
    """Ctrl-C to the group of a program, as a terminal sends it; or a kill, which it cannot see."""
    program = tmp_path / "program.py"
    program.write_text(
        "import posttrain as pt\n"
        f"model = pt.load({str(tiny_folder)!r})\n"
        "plan = pt.grpo('arithmetic', overlap=pt.Overlap(), sampling=pt.Sampling(max_tokens=8),\n"
        "               num_generations=2, batch_size=2)\n"
        "pt.fit(model, plan, steps=100000)\n"
    )
    output = tmp_path / "output.txt"
    with output.open("w") as file:
        started = subprocess.Popen(
            [sys.executable, str(program)],
            start_new_session=True,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    deadline = time.monotonic() + 400
    while not (found := children(started.pid)):
        assert started.poll() is None and time.monotonic() < deadline, output.read_text()
        time.sleep(0.2)
    time.sleep(2)
    os.killpg(started.pid, number)
    started.wait(100)
    assert started.returncode != 0 and all(gone(child) for child in found)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"overlap": {"max_staleness": -1}}, "overlap.max_staleness: -1"),
        ({"overlap": {"num_threads": -1}}, "overlap.num_threads: -1"),
        ({"overlap": {"max_staleness": 0, "in_flight": True}}, "overlap.in_flight.*max_staleness"),
        ({"overlap": {"stale": "keep"}}, "overlap.stale: 'keep'.*in_flight"),
        ({"overlap": {"stale": "hide"}}, "overlap.stale"),
        ({"overlap": {"in_flight": True, "stale": "keep"}, "credit": {}}, "importance_correction"),
        ({"overlap": {"in_flight": True}, "max_resamples": 1}, "in_flight.*max_resamples"),
        ({"overlap": {"in_flight": True}, "given_steps": 2}, "in_flight.*given_steps"),
        ({"overlap": {"staleness": 2}}, "overlap.staleness"),
    ],
)
def test_what_cannot_be_is_refused_before_weights(
    changes: dict[str, Any], named: str, tiny_folder: Path, tmp_path: Path
) -> None:
    losses = ["clipped", "given_nll"] if "given_steps" in changes else ["clipped"]
    raw = {**OVERLAPPED, "losses": losses, "model": str(tiny_folder), **changes}
    with pytest.raises(ConfigError, match=named):
        run_of(parse_recipe(raw, tmp_path)).check()


def test_settings_that_need_a_whole_step_go_with_episodes_in_flight() -> None:
    from policy_runs import settings

    check(settings(overlap=OverlapConfig(in_flight=True)), Sampling())
