"""Chat and generate with a small model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from posttrain.cli import chat, main


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


def test_chat_remembers_the_conversation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = []

    class Fake:
        has_template = True

        def __init__(self, model: str, overrides: list[str], *, seed: int) -> None:
            assert (model, overrides) == ("m", ["temperature=0"])

        def write(self, prompts: list[object], *, seed: int) -> list[list[dict[str, object]]]:
            seen.append([(m["role"], m["content"]) for m in prompts[0]])  # type: ignore[index]
            return [[{"completion": f"answer {len(seen)}", "finish_reason": "stop"}]]

    monkeypatch.setattr(chat, "Writer", Fake)
    lines = iter(["one", "", "two", "/undo", "three", "/new", "four", "/quit"])
    assert chat.chat("m", ["temperature=0"], system="s", read=lambda _: next(lines)) == 0
    system, one = ("system", "s"), [("user", "one"), ("assistant", "answer 1")]
    assert seen[1] == [system, *one, ("user", "two")]
    assert seen[2] == [system, *one, ("user", "three")]
    assert seen[3] == [system, ("user", "four")]
    assert "answer 4" in capsys.readouterr().out
