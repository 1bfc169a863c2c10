"""Active preferences on a tiny model: pairs are chosen, compared and learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import posttrain as pt
from posttrain.errors import ConfigError, DataError
from posttrain.learners.comparisons import _compared

QUIET = Console(quiet=True)
POOL = [
    {"prompt": f"p{i}", "completions": ["aa", "b", "ccc"], "rewards": [0.5, 0.1, 0.9]}
    for i in range(8)
]
HELD_OUT = [{"prompt": f"q{i}", "chosen": "ccc", "rejected": "b"} for i in range(4)]


def active(model: Path, pool: Any = POOL, **changes: Any) -> Any:
    values: dict[str, Any] = {
        "use": "preferences",
        "eval_data": HELD_OUT,
        "cold_start": "random_pair",
        "num_initial": 3,
        "rows_per_round": 2,
        "num_rounds": 1,
        "num_samples": 2,
        "training": {"steps": 2, "learning_rate": 1e-3},
        "console": QUIET,
    }
    return pt.active(str(model), pool, **{**values, **changes})


def test_pairs_are_chosen_compared_and_learnt(tiny_folder: Path) -> None:
    names = ["apl", "random_pair"]
    result = active(tiny_folder, selectors=names)
    assert result.selectors == names
    assert all(list(curve.num_labels) == [3, 5] for curve in result.curves)
    assert [c.selector for c in result.compare()] == ["apl"]


def test_a_label_says_which_is_better() -> None:
    row = {"prompt": "p", "first": "x", "second": "y", "better": 0}
    assert _compared(row) == {"prompt": "p", "chosen": "y", "rejected": "x"}


def test_what_is_refused(tiny_folder: Path) -> None:
    with pytest.raises(ConfigError):
        active(tiny_folder, selectors=["entropy"])
    with pytest.raises(ConfigError):
        active(tiny_folder, selectors=["drts"], cold_start="random")
    with pytest.raises(DataError):
        active(tiny_folder, [{"prompt": "p", "completions": ["a"]}], selectors=["drts"])
    with pytest.raises(DataError):
        active(
            tiny_folder,
            [{"prompt": "p", "completions": ["a", "b"], "rewards": [1.0]}],
            selectors=["drts"],
        )
