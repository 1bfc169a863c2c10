"""Tasks of users that raise, exit or return something else."""

from __future__ import annotations

from typing import Any

import pytest

from posttrain import registry
from posttrain.config import Component
from posttrain.errors import ConfigError
from posttrain.methods.objects import task_of


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in registry.tasks.names():
        registry.tasks.get(name)
    monkeypatch.setattr(registry.tasks, "_functions", dict(registry.tasks._functions))
    return registry.tasks.register


@pytest.mark.parametrize("error", [ZeroDivisionError("by zero"), SystemExit(0)])
def test_a_task_that_raises_is_an_error(register: Any, error: BaseException) -> None:
    @register
    def broken_task():
        """Raises."""
        raise error

    @register
    def listing():
        """Returns rows."""
        return [{"prompt": "p"}]

    with pytest.raises(ConfigError, match=f"task 'broken_task' raised {type(error).__name__}"):
        task_of(Component("broken_task"))
    with pytest.raises(
        ConfigError, match="task 'listing' returned list; it must return a posttrain.types.Task"
    ):
        task_of(Component("listing"))
