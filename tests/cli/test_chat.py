"""Chat and generate with a small model."""

from __future__ import annotations

import pytest

from posttrain.cli import chat


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
