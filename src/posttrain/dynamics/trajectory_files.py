"""Trajectories from files: CSV with a row per step, and NumPy archives of episodes."""

from __future__ import annotations

import csv
import gzip
import itertools
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from posttrain.dynamics.trajectory import Trajectory
from posttrain.errors import ConfigError, DataError, nearest


def read_trajectories(
    path: str | Path, *, columns: Sequence[str] | None = None
) -> list[Trajectory]:
    """Episodes of a file.

    A CSV file (or .csv.gz) is one series: its first row names the columns, and those of numbers
    are the states. An archive (.npz) holds `obs`, and may hold `actions`, `rewards` and
    `episode_starts` (true at the first step of each episode), as Stable Baselines writes them.

    Args:
        columns: of a CSV file, instead of all that hold numbers.

    Raises:
        DataError: no such file, or not of this form.
        ConfigError: a column that is not there.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise DataError(f"no file {file}; give a .csv, .csv.gz or .npz file of trajectories")
    if file.name.endswith(".npz"):
        if columns is not None:
            raise ConfigError(f"{file} is an archive, and columns are those of a CSV file")
        return _archive(file)
    if file.name.endswith((".csv", ".csv.gz")):
        return [_table(file, columns)]
    raise DataError(f"{file} is neither .csv, .csv.gz nor .npz")


def _table(file: Path, columns: Sequence[str] | None) -> Trajectory:
    opened = gzip.open if file.name.endswith(".gz") else open
    try:
        with opened(file, "rt", encoding="utf-8", newline="") as stream:
            names, *rows = list(csv.reader(stream))
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{file} is no CSV file ({error})") from error
    if not rows:
        raise DataError(f"{file} has no rows below its header")
    for name in columns or ():
        if name not in names:
            raise ConfigError(f"{file} has no column {name!r}: {nearest(name, names)}")
    chosen = (
        list(columns)
        if columns
        else [n for n, text in zip(names, rows[0], strict=False) if _number(text)]
    )
    if not chosen:
        raise DataError(f"{file}: no column of the first row {rows[0]} holds a number")
    places = [names.index(name) for name in chosen]
    try:
        values = [[float(row[place]) for place in places] for row in rows]
    except (ValueError, IndexError) as error:
        raise DataError(f"{file}: a row has no number in one of {chosen} ({error})") from error
    return Trajectory(np.array(values))


def _archive(file: Path) -> list[Trajectory]:
    try:
        with np.load(file, allow_pickle=False) as archive:
            values = {
                name: np.asarray(archive[name])
                for name in ("obs", "actions", "rewards", "episode_starts")
                if name in archive.files
            }
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{file} is no archive of arrays ({error})") from error
    if "obs" not in values:
        raise DataError(f"{file} has no array 'obs', the states of all steps one after the other")
    count = len(values["obs"])
    starts = np.flatnonzero(values.get("episode_starts", np.zeros(count, dtype=bool)))
    bounds = sorted({0, *starts.tolist(), count})
    episodes = []
    for first, last in itertools.pairwise(bounds):
        parts = {name: rows[first:last] for name, rows in values.items()}
        episodes.append(Trajectory(parts["obs"], parts.get("actions"), parts.get("rewards")))
    return episodes


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
