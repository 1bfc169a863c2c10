"""Two and four processes train as one does: gradients, weights, metrics and rollouts."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from process_groups import outcomes, results
from world_cases import CORE, PLANS, all_trained, failing_run, long_run, write_models

from posttrain.errors import RankError, RewardError, TrainingDiverged

TOLERANCE = {"one_prompt": 1e-7}
"""Where a tree is split, its branches are joined in another order, in float32 sums (1e-8 also
between micro-batches of one process)."""

OF_STREAMS = {"value/return"}


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


def different(one: dict[str, Any], other: dict[str, Any], bound: float) -> dict[str, Any]:
    """Metrics whose values differ; None is NaN. Streams are float32, and so are their sums."""
    pairs = {k: (np.float64(v), np.float64(other[k])) for k, v in one.items()}
    bounds = {k: 1e-6 if k in OF_STREAMS else bound for k in one}
    return {
        k: v
        for k, v in pairs.items()
        if not np.isclose(*v, rtol=bounds[k], atol=bounds[k], equal_nan=True)
    }


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
            assert not different(mine, theirs, bound)


@pytest.mark.parametrize(
    ("kind", "first", "second", "step"),
    [
        ("reward", RewardError, RankError, 1),
        ("hook", RankError, OSError, 2),
        ("loss", TrainingDiverged, TrainingDiverged, 0),
    ],
)
def test_an_error_of_one_rank_ends_all(
    folder: Path, tmp_path: Path, kind: str, first: Any, second: Any, step: int
) -> None:
    run = functools.partial(failing_run, folder, tmp_path / "run", kind)
    errors = outcomes(2, run, folder=tmp_path / "ranks")
    assert [type(error) for error in errors] == [first, second]
    for rank, error in enumerate(errors):
        if isinstance(error, RankError):
            assert error.rank == 1 - rank
            assert type(errors[1 - rank]).__name__ in str(error)
    saved = [path.name for path in (tmp_path / "run").glob("checkpoint-*")]
    assert f"checkpoint-{step}" in saved if step else not saved


@pytest.mark.timeout(1200)
def test_a_killed_process_ends_the_run_which_others_resume(folder: Path, tmp_path: Path) -> None:
    (one,) = results(1, long_run, folder, tmp_path / "one", folder=tmp_path / "1", seconds=300)
    begun = tmp_path / "two"
    killed = functools.partial(long_run, folder, begun, die_at=3)
    first, second = outcomes(2, killed, folder=tmp_path / "2", seconds=300)
    assert isinstance(first, RankError) and first.rank == 1 and second is None
    assert sorted(path.name for path in begun.glob("checkpoint-*")) == ["checkpoint-2"]
    for size in (1, 2, 4):
        copy = shutil.copytree(begun, tmp_path / f"by-{size}")
        resumed = functools.partial(long_run, folder, copy, resume=True)
        for rank in results(size, resumed, folder=tmp_path / f"from-{size}", seconds=300):
            assert rank["folder"] == copy and (copy / "model").is_dir()
            assert [row.keys() for row in rank["metrics"]] == [r.keys() for r in one["metrics"]]
            for mine, theirs in zip(one["metrics"], rank["metrics"], strict=True):
                assert not different(mine, theirs, 1e-9)
            for name, value in one["weights"].items():
                assert abs(value - rank["weights"][name]).max() <= 1e-9
