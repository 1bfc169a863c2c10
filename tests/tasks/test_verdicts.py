"""Labelled completions as problems of a judge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import write

from posttrain.errors import ConfigError, DataError
from posttrain.tasks.verdicts import verdicts

ROWS: list[dict[str, Any]] = [
    {"prompt": f"Q: {i}+1\nA:", "completion": f" {i + (i != 1)}", "reward": float(i != 1), "id": i}
    for i in range(5)
]


def test_labels_are_verdicts_and_both_are_as_common(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", ROWS)
    task = verdicts(path=path)
    assert [e.answer for e in task.examples] == ["yes", "no"]
    assert [e.answer for e in verdicts(path=path, balanced=False).examples].count("yes") == 4
    right, wrong = task.examples
    assert task.score("0+1 is 1. Verdict: yes", right) == 1.0 and task.score("yes", right) == 0.0
    assert task.score("Verdict: yes", wrong) == 0.0 and task.extract("Verdict: no") == "no"
    assert "Q: 1+1" in str(wrong.prompt) and str(wrong.prompt).endswith("Reply:")


def test_chat_rows_are_asked_in_a_turn(tmp_path: Path) -> None:
    message = [{"role": "user", "content": "1+1?"}]
    answered = [{"role": "assistant", "content": "2"}]
    rows = [{"prompt": message, "completion": answered, "reward": 1.0}]
    (example,) = verdicts(path=write(tmp_path / "r.jsonl", rows), balanced=False).examples
    assert isinstance(example.prompt, list) and "Answer:\n2" in example.prompt[0]["content"]


def test_the_bound_says_what_is_right(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "completion": str(r), "reward": r} for r in (0.2, 0.6, 0.9)]
    path = write(tmp_path / "r.jsonl", rows)
    task = verdicts(path=path, min_reward=0.5, balanced=False)
    assert [e.answer for e in task.examples] == ["no", "yes", "yes"]
    assert len(verdicts(path=path, min_reward=0.5, balanced=False, num_examples=2).examples) == 2


@pytest.mark.parametrize("row", [{"prompt": "p"}, {"prompt": "p", "completion": "c"}])
def test_rows_without_a_label_are_refused(row: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(DataError):
        verdicts(path=write(tmp_path / "r.jsonl", [row]))


def test_one_label_cannot_be_balanced(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", [ROWS[0]])
    with pytest.raises(DataError):
        verdicts(path=path)
    with pytest.raises(ConfigError):
        verdicts(path=path, balanced=False, num_examples=0)
