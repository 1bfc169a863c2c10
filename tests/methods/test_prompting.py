"""Tasks of users that raise, exit or return something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from posttrain.methods.prompting import make_task

from posttrain import registry
from posttrain.config import Component, Recipe
from posttrain.errors import ConfigError


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in registry.tasks.names():
        registry.tasks.get(name)
    monkeypatch.setattr(registry.tasks, "_functions", dict(registry.tasks._functions))
    return registry.tasks.register


@pytest.mark.parametrize("error", [ZeroDivisionError("by zero"), SystemExit(0)])
def test_a_task_that_raises_is_an_error(
    register: Any, error: BaseException, tmp_path: Path
) -> None:
    from posttrain.methods.run import Run

    @register
    def broken_task():
        """Raises."""
        raise error

    @register
    def listing():
        """Returns rows."""
        return [{"prompt": "p"}]

    run = Run(Recipe("grpo", output=str(tmp_path / "run")))
    with pytest.raises(ConfigError, match=f"task 'broken_task' raised {type(error).__name__}"):
        make_task(run, Component("broken_task"))
    with pytest.raises(
        ConfigError, match="task 'listing' returned list, but a posttrain.types.Task is wanted"
    ):
        make_task(run, Component("listing"))
