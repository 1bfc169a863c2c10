"""posttrain generate with a small model."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from support import write

from posttrain.cli import main
from posttrain.cli.generate import as_chat, generate
from posttrain.errors import ConfigError, DataError


def test_generate_writes_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text('{"prompt": "What is 2 + 3?"}\n{"question": "What is 4 + 4?"}\n')
    arguments = ["generate", "embedded", "--data", str(data), "--num", "2", "max_tokens=6"]
    output = tmp_path / "out.jsonl"
    assert main([*arguments, "--output", str(output)]) == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["prompt"] for row in rows] == ["What is 2 + 3?"] * 2 + ["What is 4 + 4?"] * 2
    assert all(0 < row["num_tokens"] <= 6 and row["completion"] for row in rows)
    capsys.readouterr()
    assert main(arguments) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == rows
    assert main([*arguments, "--output", str(output)]) == 2
    assert main(["generate", "embedded", "--prompt", "x", "temprature=0"]) == 2
    assert "temperature" in capsys.readouterr().err
    assert main(["generate", "embedded"]) == 2


def options(path: Path, **changes: Any) -> argparse.Namespace:
    values = {"num": 1, "output": None, "model": "m", "overrides": [], "prompt": [], "limit": None}
    return argparse.Namespace(**{**values, "data": str(path), "seed": 0, "system": None, **changes})


def test_rows_without_a_prompt_name_their_columns(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="answer"):
        generate(options(Path(write(tmp_path / "r.jsonl", [{"answer": "4"}]))))


def test_prompts_of_conversations_end_before_the_last_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []

    class Fake:
        has_template = True

        def __init__(self, model: str, overrides: list[str], *, seed: int) -> None:
            self.seed = seed

        def write(self, prompts: list[Any], *, num: int, seed: int) -> list[list[dict[str, Any]]]:
            asked.extend(prompts)
            return [[{"completion": "x"}] * num for _ in prompts]

    monkeypatch.setattr(sys.modules["posttrain.cli.generate"], "Writer", Fake)
    user, answer = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
    rows = [{"messages": [user, answer]}, {"messages": [user, answer, user]}, {"question": "p"}]
    data = Path(write(tmp_path / "r.jsonl", rows))
    assert generate(options(data, num=2, system="s")) == 0
    system = {"role": "system", "content": "s"}
    roles = [[message["role"] for message in prompt] for prompt in asked]
    assert roles == [
        ["system", "user"],
        ["system", "user", "assistant", "user"],
        ["system", "user"],
    ]
    assert asked[2] == [system, {"role": "user", "content": "p"}]
    assert len(capsys.readouterr().out.splitlines()) == 6


def test_without_a_template_a_text_stays_a_text() -> None:
    assert as_chat("q", None, template=False) == "q"
    assert as_chat("q", None, template=True) == [{"role": "user", "content": "q"}]


@pytest.mark.parametrize("change", [{"num": 0}, {"data": None}])
def test_nothing_to_write_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="--num|--prompt"):
        generate(options(tmp_path, **change))
