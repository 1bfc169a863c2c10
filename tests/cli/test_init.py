"""The recipe that init writes passes check as it is, for every method."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from posttrain import registry
from posttrain.cli import main


@pytest.mark.parametrize("method", registry.methods.names())
def test_a_written_recipe_passes_check(
    method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"{method}.yaml"
    assert main(["init", method, str(path)]) == 0
    text = path.read_text()
    if method == "evaluate_reward":  # posttrain ships no reward model
        assert "EDIT THIS LINE" in text
        assert main(["check", str(path)]) == 1
        assert "posttrain reward_model" in capsys.readouterr().err
    else:
        assert main(["check", str(path)]) == 0
    assert max(map(len, text.splitlines())) <= 110  # a long default stays on one line
    if method == "dpo":
        assert "# beta: 0.1" in text


def test_a_commented_line_can_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.yaml"
    assert main(["init", "dpo", str(path)]) == 0
    text = re.sub(r"(?m)^# (beta|learning_rate|cache_reference):", r"\1:", path.read_text())
    path.write_text(text)
    assert main(["check", str(path)]) == 0


def test_an_existing_file_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("mine")
    assert main(["init", "grpo", str(path)]) == 2
    assert path.read_text() == "mine"
    assert main(["init", "grpo", str(path), "--force"]) == 0
    assert "method: grpo" in path.read_text()


@pytest.mark.parametrize(
    ("method", "flags", "lines"),
    [
        ("sft", ["--data", "mine.jsonl"], ["data: mine.jsonl", "model: embedded"]),
        ("sft", ["--task", "arithmetic"], ["task: arithmetic"]),
        ("grpo", ["--model", "embedded-tools", "--task", "sorting"], ["task: sorting"]),
        ("eval", ["--task", "sorting"], ["evaluation: {task: sorting}"]),
    ],
)
def test_what_is_given_stands_in_the_recipe(
    method: str, flags: list[str], lines: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    assert main(["init", method, "r.yaml", *flags]) == 0
    text = Path("r.yaml").read_text()
    assert all(any(row.startswith(line) for row in text.splitlines()) for line in lines)
    assert not Path("r_sample.jsonl").exists()
    assert main(["check", "r.yaml"]) == 0


def test_a_value_that_a_method_does_not_take_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "grpo", str(tmp_path / "r.yaml"), "--data", "x"]) == 2
    assert "--task" in capsys.readouterr().err
    both = ["--data", "x", "--task", "arithmetic"]
    assert main(["init", "sft", str(tmp_path / "r.yaml"), *both]) == 2
    assert not (tmp_path / "r.yaml").exists()


def test_comments_fit_a_terminal(tmp_path: Path) -> None:
    assert main(["init", "grpo", str(tmp_path / "a.yaml")]) == 0
    lines = (tmp_path / "a.yaml").read_text().splitlines()
    comments = [line for line in lines if line.count("#") > 1 or ": " not in line]
    assert comments and all(len(line) <= 80 for line in comments)
