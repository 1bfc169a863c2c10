"""Folders with a registry of files, as LLaMA-Factory writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from posttrain.data.formats import detect_format, normalise
from posttrain.data.registered_files import REGISTRY, is_registry
from posttrain.data.rows import load_rows
from posttrain.errors import DataError

INFO: dict[str, Any] = {
    "sums": {
        "file_name": "sums.jsonl",
        "columns": {"prompt": "task", "query": "given", "response": "solution"},
    },
    "chats": {
        "file_name": "chats.jsonl",
        "formatting": "sharegpt",
        "columns": {"messages": "turns", "kto_tag": "liked"},
        "tags": {"role_tag": "who", "content_tag": "said", "user_tag": "u", "assistant_tag": "a"},
    },
    "documents": {"file_name": "documents.jsonl", "columns": {"prompt": "body"}},
    "elsewhere": {"hf_hub_url": "somebody/rows"},
    "lost": {"file_name": "lost.jsonl"},
}
ROWS = {
    "sums.jsonl": {"task": "Add", "given": "1 2", "solution": "3"},
    "chats.jsonl": {
        "turns": [{"who": "u", "said": "Hi"}, {"who": "a", "said": "Hello"}],
        "liked": False,
    },
    "documents.jsonl": {"body": "A long text."},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / REGISTRY).write_text(json.dumps(INFO))
    for name, row in ROWS.items():
        (tmp_path / name).write_text(json.dumps(row))
    return tmp_path


def test_columns_and_roles_have_our_names(folder: Path) -> None:
    assert load_rows(folder, subset="sums") == [
        {"instruction": "Add", "input": "1 2", "output": "3"}
    ]
    (chat,) = load_rows(folder, subset="chats")
    form = detect_format([chat])
    item = normalise(chat, form, "0")
    assert form.name == "sharegpt unpaired preference" and item.label is False
    assert item.prompt == [{"role": "user", "content": "Hi"}]
    assert item.completion == [{"role": "assistant", "content": "Hello"}]
    assert load_rows(folder, subset="documents") == [{"text": "A long text."}]


@pytest.mark.parametrize("name", [None, "sum", "lost", "elsewhere"])
def test_what_is_not_there_is_named(folder: Path, name: str | None) -> None:
    with pytest.raises(DataError, match=r"subset|no such file"):
        load_rows(folder, subset=name)


def test_a_folder_of_the_library_datasets_is_none(tmp_path: Path) -> None:
    (tmp_path / REGISTRY).write_text(json.dumps({"citation": "", "features": {"a": {}}}))
    assert not is_registry(tmp_path) and not is_registry(tmp_path / "none")
    (tmp_path / REGISTRY).write_text("not json")
    assert not is_registry(tmp_path)
