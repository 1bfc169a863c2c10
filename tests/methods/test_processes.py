"""Two and four processes train as one does: gradients, weights, metrics and rollouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from process_groups import results
from world_cases import CORE, PLANS, all_trained, write_models

TOLERANCE = {"one_prompt": 1e-7}
"""Where a tree is split, its branches are joined in another order, in float32 sums (1e-8 also
between micro-batches of one process)."""


@pytest.fixture(scope="module")
def folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tiny_folder, tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    """What one, two and four processes leave, by their number: per rank, by case."""
    sizes = {1: list(PLANS), 2: list(PLANS), 4: list(CORE)}
    return {
        size: results(
            size, all_trained, names, folder, folder=tmp_path_factory.mktemp("ranks"), seconds=500
        )
        for size, names in sizes.items()
    }


def written(rollouts: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """What was sampled for which prompt, and its rewards."""
    return [
        (row["step"], row["id"], c["text"], c["rewards"])
        for row in rollouts
        for c in row["completions"]
    ]


CASES = [(2, name) for name in PLANS] + [(4, name) for name in CORE]


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("size", "name"), CASES)
def test_processes_train_as_one_does(trained: dict[int, Any], size: int, name: str) -> None:
    one = trained[1][0][name]
    bound = TOLERANCE.get(name, 1e-9)
    for rank in trained[size]:
        several = rank[name]
        for mine, theirs in zip(one["gradients"], several["gradients"], strict=True):
            assert any(g is not None and abs(g).max() > 1e-4 for g in mine)
            for a, b in zip(mine, theirs, strict=True):
                assert (a is None) == (b is None)
                assert a is None or abs(a - b).max() <= bound
        for weight, value in one["weights"].items():
            assert abs(value - several["weights"][weight]).max() <= bound
        assert written(several["rollouts"]) == written(one["rollouts"])
        assert [row.keys() for row in several["metrics"]] == [r.keys() for r in one["metrics"]]
        for mine, theirs in zip(one["metrics"], several["metrics"], strict=True):
            for key, value in mine.items():
                assert np.isclose(value, theirs[key], rtol=bound, atol=bound, equal_nan=True), key
