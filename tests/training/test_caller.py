"""Calls that go on with a run, in the words of the shell and of Python."""

from __future__ import annotations

from pathlib import Path

from posttrain.training.caller import Caller

SHELL, PYTHON = Caller(), Caller(python=True)
RUN = Path("runs/a")


def test_calls_that_resume() -> None:
    assert SHELL.resume(RUN) == "posttrain resume runs/a"
    assert SHELL.resume(RUN, steps="9", accept=["max_steps", "data"]) == (
        "posttrain resume runs/a max_steps=9 --accept max_steps --accept data"
    )
    assert PYTHON.resume(RUN) == "pt.fit(model, plan, output='runs/a', resume=True)"
    assert PYTHON.resume(RUN, steps="9", accept=["max_steps"]) == (
        "pt.fit(model, plan, steps=9, output='runs/a', resume=True, accept=['max_steps'])"
    )


def test_what_a_new_run_starts_from() -> None:
    assert SHELL.start_from(RUN / "model") == "model.path=runs/a/model"
    assert PYTHON.start_from(RUN / "model") == "pt.fit('runs/a/model', ...)"
    assert (SHELL.length, PYTHON.length) == ("max_steps", "steps")
