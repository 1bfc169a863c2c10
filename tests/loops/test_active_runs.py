"""What a resume compares, pools, and selectors by name, function and strategy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from posttrain.config import DataConfig
from posttrain.errors import ConfigError, DataError
from posttrain.loops.active_runs import pool_of, recorded, selector_of, selectors_of, shown
from posttrain.types import Example, Task


def mine(texts: Any, num: int) -> Any:
    return list(range(num))


class First:
    def query(self, X: Any, y: Any, candidates: Any = None, batch_size: int = 1) -> Any:
        return candidates[:batch_size]


def test_settings_are_compared_in_any_process() -> None:
    rows = [{"text": "a", "label": "x"}]
    kept = recorded({"eval_data": rows, "labeller": mine, "selectors": [First()], "num_seeds": 2})
    assert kept["eval_data"].startswith("1 rows, ") and kept["num_seeds"] == 2
    assert " at 0x" not in str(kept) and "mine" in kept["labeller"]
    other = recorded({"eval_data": [*rows, *rows]})
    assert other["eval_data"] != kept["eval_data"]
    assert "rows.jsonl" in str(recorded({"eval_data": DataConfig("rows.jsonl")}))
    assert recorded({"eval_data": Path("a.jsonl")})["eval_data"] == "a.jsonl"


def test_a_pool_has_ids() -> None:
    assert [row["id"] for row in pool_of([{"text": "a"}, {"text": "b", "id": "x"}], None)] == [
        "1",
        "x",
    ]
    task = Task("t", [Example("p", completion="c", id="e1")], lambda text, e: 0.0, str.strip)
    assert pool_of(None, task) == [{"prompt": "p", "completion": "c", "answer": None, "id": "e1"}]
    with pytest.raises(ConfigError):
        pool_of(None, None)
    with pytest.raises(DataError):
        pool_of([{"text": "a", "id": "2"}, {"text": "b"}], None)


def test_selectors_by_name_function_and_strategy() -> None:
    made = selectors_of(["entropy", mine, First(), {"name": "less", "over": "max"}])
    assert [shown(item) for item in made] == ["entropy", "mine", "First", "less(over=max)"]
    assert [shown(item) for item in selectors_of("badge")] == ["badge"]
    assert selector_of(First()).function is not None
    with pytest.raises(ConfigError):
        selectors_of([])
