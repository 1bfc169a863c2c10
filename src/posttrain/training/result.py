"""What `fit` gives back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

from posttrain.errors import ConfigError, nearest
from posttrain.report.notebook import Rollouts, metrics_table, result_html
from posttrain.training.hooks import group_as_json
from posttrain.training.training_state import TrainingState, last_checkpoint

MAX_GROUPS = 4
"""Prompts per step whose completions are kept."""


class Metrics(Sequence[dict[str, float]]):
    """The metrics of a run: one dict per step, or one column by its name.

    >>> metrics = Metrics([{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}])
    >>> metrics["loss"]
    [2.0, 1.5]
    >>> metrics[-1]["step"]
    2

    Raises:
        KeyError: no step has a metric of that name.
    """

    def __init__(self, rows: Iterable[dict[str, float]] = ()) -> None:
        self.rows = list(rows)

    @overload
    def __getitem__(self, key: int) -> dict[str, float]: ...
    @overload
    def __getitem__(self, key: slice) -> list[dict[str, float]]: ...
    @overload
    def __getitem__(self, key: str) -> list[float]: ...
    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            values = [row[key] for row in self.rows if key in row]
            if not values:
                raise KeyError(f"no metric {key!r}: {nearest(key, self.names())}")
            return values
        return self.rows[key]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[dict[str, float]]:
        return iter(self.rows)

    def _repr_html_(self) -> str:
        """A table in a notebook's cell."""
        return str(metrics_table(self.rows))

    def names(self) -> list[str]:
        """The columns, in the order in which they first occur."""
        return list(dict.fromkeys(name for row in self.rows for name in row))


class Record:
    """The hook that keeps metrics and completions in memory.

    Args:
        source: where `groups` of completions come from; None where none are sampled.
    """

    def __init__(self, source: Any = None) -> None:
        self.source = source
        self.metrics: list[dict[str, float]] = []
        self.rollouts: list[dict[str, Any]] = []

    def __call__(self, step: int, metrics: dict[str, float]) -> None:
        self.metrics.append({"step": step, **metrics})
        if self.source is not None:
            groups = self.source.groups[:MAX_GROUPS]
            self.rollouts += [group_as_json(step, group) for group in groups]


class Result:
    """What a training leaves.

    Attributes:
        metrics: one dict per step, step 0 included where something was measured before training.
        rollouts: sampled completions with their rewards, one dict per prompt of a step (see
            rollouts.jsonl); empty for methods that sample none.
        folder: where the run was written, None where it was not.
        evaluation: the measurement after the last step, None where none was asked for.
    """

    def __init__(
        self,
        model: Any,
        *,
        metrics: Iterable[dict[str, float]] = (),
        rollouts: Iterable[dict[str, Any]] = (),
        folder: Path | None = None,
        evaluation: Any = None,
        load: Callable[[], Any] | None = None,
        state: TrainingState | None = None,
    ) -> None:
        self._model = model
        self._load = load
        self._state = state
        self.metrics = Metrics(metrics)
        self.rollouts = Rollouts(rollouts)
        self.folder = folder
        self.evaluation = evaluation

    @property
    def model(self) -> Any:
        """The trained model. That of a run which was finished before is loaded when it is read."""
        if self._model is None and self._load is not None:
            self._model = self._load()
        return self._model

    @property
    def step(self) -> int:
        """The number of the last step, those of earlier fits (see `after` of `fit`) included."""
        return int(self.metrics[-1]["step"]) if self.metrics else 0

    def check_state(self) -> None:
        """Refuse to go on from a result whose optimiser's state is not there.

        Raises:
            ConfigError: says where it is gone.
        """
        if self._state is not None:
            return
        if self.folder is None:
            raise ConfigError(
                "after: the optimiser's state of this result is with the fit that went on from "
                "it; give that one's result, or leave out after"
            )
        last_checkpoint(self.folder, self.step)

    def take_state(self) -> TrainingState:
        """The state to go on from. One in memory is handed over, as the next fit changes it.

        Raises:
            ConfigError: it is not there. CheckpointError: the checkpoint is damaged.
        """
        self.check_state()
        state, self._state = self._state, None
        if state is None:
            assert self.folder is not None  # `check_state` has looked
            state = TrainingState.read(self.folder, self.step)
        return state

    def _repr_html_(self) -> str:
        """Curves, metrics and completions in a notebook's cell."""
        evaluation = self.evaluation.to_json() if self.evaluation is not None else None
        return str(result_html(self.metrics, self.rollouts, evaluation, title=repr(self)))

    def __repr__(self) -> str:
        place = f", folder={str(self.folder)!r}" if self.folder else ""
        return f"Result({self.step} steps{place})"


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file; none where there is no file."""
    if not path.is_file():
        return []
    # Only "\n" ends a line: a completion may hold other separators.
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]
