"""GSM8K rows: answers, worked solutions, chats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain import registry
from posttrain.errors import DataError
from posttrain.types import Task, plain_text


def make(name: str, **options: Any) -> Task:
    return registry.tasks.bind(name, options)()


GSM = [
    {"question": "1+1?", "answer": "It is <<1+1=2>>2.\n#### 2"},
    {"question": "big?", "answer": "#### 1,000"},
]


def jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(path)


def test_gsm8k_files(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "train.jsonl", GSM)
    task = make("gsm8k", path=path)
    assert task.examples[0].completion == " It is 2.\n#### 2" and task.examples[1].answer == "1,000"
    assert (
        task.score("#### 1000.0", task.examples[1]) == 1
        and task.score("1000", task.examples[1]) == 0
    )
    assert task.extract("#### 1,000") == "1000"
    assert "<<1+1=2>>" in plain_text(
        make("gsm8k", path=path, keep_calculator=True).examples[0].completion or ""
    )
    chat = make("gsm8k", path=path, chat=True).examples[0]
    assert isinstance(chat.prompt, list) and chat.prompt[0]["role"] == "user"
    with pytest.raises(DataError, match="row 0 is not GSM8K-like"):
        make("gsm8k", path=jsonl(tmp_path / "bad.jsonl", [{"question": "a", "answer": "b"}]))


def test_real_gsm8k(shared: Path) -> None:
    """Every reference scores 1; model solutions are judged as the data set's own labels judge
    them.
    """
    folder = shared / "data" / "gsm8k"
    task = make("gsm8k", path=str(folder / "test.jsonl"), split="test")
    assert len(task.examples) == 1319
    assert all(task.score(plain_text(e.completion or ""), e) == 1 for e in task.examples)
    train = make("gsm8k", path=str(folder / "train.jsonl.gz"), num_examples=300)
    assert all(train.score(plain_text(e.completion or ""), e) == 1 for e in train.examples)
