"""Tasks from files of rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain import registry
from posttrain.errors import DataError
from posttrain.types import Task


def make(name: str, **options: Any) -> Task:
    return registry.tasks.bind(name, options)()


def jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(path)


def test_any_jsonl(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "rows.jsonl", [{"q": "2+2?", "a": 4, "level": 1}])
    task = make("jsonl", path=path, prompt_column="q", answer_column="a")
    assert task.score("it is 4", task.examples[0]) == 1 and task.score("", task.examples[0]) == 0
    assert task.examples[0].columns == {"level": 1}
    contains = make("jsonl", path=path, prompt_column="q", answer_column="a", verifier="contains")
    assert (
        contains.score("44", contains.examples[0]) == 1
        and contains.score("", contains.examples[0]) == 0
    )
    with pytest.raises(DataError, match="no column 'prompt'"):
        make("jsonl", path=path)
    worked = jsonl(tmp_path / "worked.jsonl", [{"prompt": "p", "answer": "3", "c": "so 5"}])
    with pytest.raises(DataError, match="does not give its own answer '3'"):
        make("jsonl", path=worked, completion_column="c")
    verl = jsonl(
        tmp_path / "verl.jsonl",
        [{"prompt": [{"role": "user", "content": "q"}], "reward_model": {"ground_truth": "7"}}],
    )
    assert make("jsonl", path=verl).examples[0].answer == "7"
