"""Limits of a program."""

from __future__ import annotations

from typing import Any

import pytest

from posttrain.errors import ConfigError
from posttrain.sandbox.limits import SandboxLimits


@pytest.mark.parametrize(
    "setting",
    [
        {"seconds": 0},
        {"seconds": float("inf")},
        {"memory_bytes": 1000},
        {"output_bytes": 0},
        {"output_bytes": 1 << 30},
        {"file_bytes": 0},
    ],
)
def test_limits_that_no_program_can_keep_are_refused(setting: dict[str, Any]) -> None:
    (name,) = setting
    with pytest.raises(ConfigError, match=name):
        SandboxLimits(**setting)


def test_limits_of_settings() -> None:
    limits = SandboxLimits.of(2.0, 100)
    assert limits.seconds == 2.0 and limits.memory_bytes == 100 << 20
