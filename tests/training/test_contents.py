"""What a run is made from, and what of it differs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from posttrain.training import contents as contents_module


def made_from(**change: Any) -> dict[str, Any]:
    base = {
        "rows": None,
        "tokenizer": "t",
        "template": "c",
        "weights": {"model": "w"},
        "plugins": {"mine.py": "p"},
        "versions": {"torch": "1", "threads": 2},
    }
    return {**base, **change}


@pytest.mark.parametrize(
    ("change", "name", "rule"),
    [
        ({"tokenizer": "other"}, "tokenizer", "refused"),
        ({"template": "other"}, "tokenizer", "refused"),
        ({"weights": {"model": "other"}}, "weights", "accept"),
        ({"weights": {"model": "w", "teacher": "v"}}, "weights", "accept"),
        ({"plugins": {}}, "plugins", "accept"),
        ({"versions": {"torch": "2", "threads": 2}}, "torch", "rounding"),
        ({"versions": {"torch": "1", "threads": 4}}, "threads", "rounding"),
    ],
)
def test_what_differs_of_that_a_run_is_made_from(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, change: Any, name: str, rule: str
) -> None:
    monkeypatch.setattr(contents_module, "rows_difference", lambda a, b: None)
    assert contents_module.content_changes(made_from(), made_from(), tmp_path) == []
    (found,) = contents_module.content_changes(made_from(), made_from(**change), tmp_path)
    assert (found.name, found.rule) == (name, rule)


def test_weights_that_the_checkpoint_holds_do_not_matter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(contents_module, "rows_difference", lambda a, b: None)
    saved = made_from(weights={"model": "memory a"}, frozen={"model": "f"})
    now = made_from(weights={"model": "memory b"}, frozen={"model": "f"})
    assert contents_module.content_changes(saved, now, tmp_path, free=["model"]) == []
    (change,) = contents_module.content_changes(saved, now, tmp_path)
    assert change.name == "weights" and "loaded model" in change.reason
    other = {**now, "frozen": {"model": "g"}}
    (change,) = contents_module.content_changes(saved, other, tmp_path, free=["model"])
    assert change.name == "weights"
