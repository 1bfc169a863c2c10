"""`posttrain hacking`: curves of proxies, and what is refused before weights are loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.cli import main
from posttrain.cli.arguments import reward_named
from posttrain.errors import ConfigError

CALL = ["hacking", "embedded", "--task", "arithmetic:num_steps=1,num_examples=40,split=test"]
SMALL = ["num_examples=6", "num_samples=4"]


def test_a_table_and_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    proxies = ["--proxy", "length:target=4", "--proxy", "task", "kl_weights=[0.5]"]
    assert main([*CALL, *proxies, "--gold", "task", *SMALL]) == 0
    shown = capsys.readouterr()
    assert "gold: task (oracle" in shown.out and "oracle" in shown.err
    values = json.loads(Path("runs/hacking/hacking.json").read_text())
    assert [c["name"] for c in values["curves"]] == [
        "length:target=4",
        "task",
        "length:target=4, kl 0.5",
    ]
    assert main([*CALL, *proxies, "--gold", "task", *SMALL]) == 2  # the folder is taken


def test_texts_of_rewards(tmp_path: Path) -> None:
    assert reward_named("length:target=4").settings == {"target": 4}
    several = reward_named("reward_model:path=[a,b],ensemble=min")
    assert several.settings == {"path": ["a", "b"], "ensemble": "min"}
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    assert reward_named(str(tmp_path)).name == "reward_model"
    for text in ("lenght", "length:4"):
        with pytest.raises(ConfigError):
            reward_named(text)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--proxy", "length"],
        ["--gold", "task"],
        ["--proxy", "length", "--gold", "task", "num_sample=4"],
        ["--proxy", "length", "--gold", "task", "num_samples=x"],
    ],
)
def test_wrong_arguments_are_status_2(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*CALL, *arguments]) == 2
    assert not Path("runs").exists()
