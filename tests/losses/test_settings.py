"""Settings of losses are refused before weights load, whatever the loss compares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from posttrain import registry
from posttrain.config import Component
from posttrain.errors import ConfigError
from posttrain.losses.settings import check_positive
from posttrain.training.objective import Objective


def test_positive_numbers_pass() -> None:
    check_positive(beta=1e-30, temperature=2.0)
    for value in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="beta is .*; it must be a finite number above 0"):
            check_positive(temperature=1.0, beta=value)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (
            "sapo",
            {"temperature_positive": 0.0},
            "temperature_positive is 0.0; it must be a finite number above 0",
        ),
        ("awr", {"beta": 0.0}, "beta is 0.0"),
        ("adaptive_entropy", {"rate": -1.0}, "rate is -1.0; it must not be negative"),
        ("label_smoothing", {"epsilon": 1.0}, "epsilon is 1.0"),
    ],
)
def test_settings_of_a_loss_of_tokens_are_refused_by_the_objective(
    name: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=f"losses: '{name}': .*{message}"):
        Objective([Component(name, settings)])
    Objective([Component(name)])


def test_a_loss_that_needs_a_number_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried without one, and what it raises then says nothing of its settings."""
    path = tmp_path / "mine.py"
    path.write_text(
        "from posttrain.registry import losses\n\n\n"
        "@losses.register(per='token')\n"
        "def centred(logprobs, *, scale: float = 1.0):\n"
        '    """Centred."""\n'
        "    return scale / len(logprobs) * logprobs\n"
    )
    monkeypatch.setattr(registry.losses, "_plugins", list(registry.losses._plugins))
    monkeypatch.setattr(registry.losses, "_functions", dict(registry.losses._functions))
    registry.load_plugins([str(path)], tmp_path)
    objective = Objective([Component("centred", {"scale": 2.0})])
    assert [term.name for term in objective.terms] == ["centred"]
    assert "logprobs" in objective.needs
