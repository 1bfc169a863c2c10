"""Settings of the main loss as plain keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import resolved, write

from posttrain import registry
from posttrain.errors import ConfigError
from posttrain.main_loss import main_loss, with_plain_settings


@pytest.mark.parametrize(
    ("method", "raw", "expected"),
    [
        ("dpo", {}, "dpo"),
        ("dpo", {"losses": ["simpo", "nll"]}, "simpo"),
        ("grpo", {"losses": [{"name": "cispo", "weight": 2.0}]}, "cispo"),
        ("dpo", {"losses": []}, ""),
        ("dpo", {"losses": [3]}, ""),
        ("evaluate", {}, ""),
    ],
)
def test_the_main_loss_is_the_first(method: str, raw: dict[str, Any], expected: str) -> None:
    assert main_loss(raw, registry.methods.entry(method)) == expected


def test_plain_settings_move_to_the_loss() -> None:
    raw = {"seed": 1, "losses": [{"name": "clipped", "clip_high": 0.3}, "kl"], "epsilon": 0.1}
    moved = with_plain_settings(raw, registry.methods.entry("grpo"))
    first = {"name": "clipped", "clip_high": 0.3, "clip_low": 0.1}
    assert moved == {"seed": 1, "losses": [first, "kl"]}
    assert raw["losses"] == [{"name": "clipped", "clip_high": 0.3}, "kl"]  # a copy was changed


def test_keys_that_the_loss_has_not_stay() -> None:
    raw = {"seed": 1, "no_such_key": 2}
    assert with_plain_settings(raw, registry.methods.entry("dpo")) == raw


def test_a_setting_given_twice_is_refused() -> None:
    raw = {"losses": [{"name": "clipped", "clip_low": 0.2}], "epsilon": 0.1}
    with pytest.raises(ConfigError, match="epsilon"):
        with_plain_settings(raw, registry.methods.entry("grpo"))


def test_the_main_loss_takes_plain_settings(
    tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": "a b", "chosen": "c d", "rejected": "e"}] * 3
    start = f"dpo --model {tiny_folder} --data {write(tmp_path / 'pairs.jsonl', rows)}"
    for change in ("beta=0.2", "losses.beta=0.2", "losses.dpo.beta=0.2", "losses.0.beta=0.2"):
        command = f"{start} {change} output={tmp_path / 'run'}"
        assert resolved(command, capsys)["losses"] == [{"name": "dpo", "beta": 0.2}]
