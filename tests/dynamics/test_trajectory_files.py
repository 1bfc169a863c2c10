"""Trajectories from files, and files that hold none."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from posttrain.dynamics.trajectory_files import read_trajectories
from posttrain.errors import ConfigError, DataError

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
TABLE = "date,a,b\n2016-07-01,1,2.5\n2016-07-02,3,-1\n"


def test_columns_of_numbers_are_the_states(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(TABLE)
    with gzip.open(tmp_path / "t.csv.gz", "wt") as stream:
        stream.write(TABLE)
    for name in ("t.csv", "t.csv.gz"):
        (series,) = read_trajectories(tmp_path / name)
        np.testing.assert_array_equal(series.states, [[1, 2.5], [3, -1]])
    (series,) = read_trajectories(tmp_path / "t.csv", columns=["b"])
    np.testing.assert_array_equal(series.states, [[2.5], [-1]])


def test_episodes_of_an_archive(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "e.npz",
        obs=np.arange(10.0).reshape(5, 2),
        actions=np.arange(5)[:, None],
        rewards=np.arange(5.0),
        episode_starts=np.array([True, False, False, True, False]),
    )
    first, second = read_trajectories(tmp_path / "e.npz")
    assert (len(first), len(second)) == (3, 2)
    assert second.actions is not None and second.rewards is not None
    np.testing.assert_array_equal(second.rewards, [3, 4])


def test_what_is_no_trajectory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("a,b\n")
    (tmp_path / "words.csv").write_text("a\nx\n")
    (tmp_path / "gap.csv").write_text("a\n1\nx\n")
    (tmp_path / "bad.npz").write_text("no")
    (tmp_path / "other.txt").write_text("1")
    (tmp_path / "t.csv").write_text(TABLE)
    for name in ("none.csv", "empty.csv", "words.csv", "gap.csv", "bad.npz", "other.txt"):
        with pytest.raises(DataError):
            read_trajectories(tmp_path / name)
    with pytest.raises(ConfigError):
        read_trajectories(tmp_path / "t.csv", columns=["c"])


def test_real_data_is_read_where_it_is_there() -> None:
    files = [
        SHARED / "mdp_trajectories" / "expert_pendulum.npz",
        SHARED / "ett" / "ETTh1.csv.gz",
    ]
    if not all(file.is_file() for file in files):
        pytest.skip("the shared data is not there")
    episodes, (series,) = read_trajectories(files[0]), read_trajectories(files[1])
    assert len(episodes) == 100 and len(episodes[0]) == 200
    assert series.states.shape == (17420, 7)
