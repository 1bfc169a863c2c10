"""Measurements of a model while it is trained: held-out data, and an evaluation on problems."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeVar

from rich.console import Console

from posttrain.models.program import whole_weights
from posttrain.training.checkpoint import write_text_whole
from posttrain.training.folder import RunFolder
from posttrain.training.hooks import Hook
from posttrain.world import World

T = TypeVar("T")

_ALONE = World.alone()

Scope = Callable[[], AbstractContextManager[None]]


class Evaluating(Protocol):
    """What measures a language model on problems that were prepared for it."""

    def of(self, model: Any) -> Any:
        """An evaluation: it has `metrics()` and `to_json()`."""
        ...

    def report(self, evaluation: Any, console: Console) -> None:
        """Print an evaluation."""
        ...


class HeldOut:
    """The hook that measures held-out data: every so many steps, and after the last.

    Args:
        measure: gives the metrics of the model as it is.
        steps: of the whole run. every: steps between measurements, 0 = only before and after.
        within: the scope in which it is measured, such as that of averaged weights.
    """

    def __init__(
        self,
        measure: Callable[[], dict[str, float]],
        steps: int,
        every: int,
        within: Scope = nullcontext,
    ) -> None:
        self.measure, self.steps, self.every, self.within = measure, steps, every, within

    def measure_into(self, metrics: dict[str, float]) -> None:
        """Measure now, as before the first step."""
        with self.within():
            metrics.update(self.measure())

    def __call__(self, step: int, metrics: dict[str, float]) -> None:
        if step == self.steps or (self.every and step % self.every == 0):
            self.measure_into(metrics)


def in_main(world: World, model: Any, measure: Callable[[], T]) -> T:
    """What the main process measures of a model, in all processes."""
    with whole_weights(model):
        return world.from_main(measure)


class Measured:
    """An evaluation of the model that is trained, and its last result.

    Args:
        evaluation: measures a model: `of(model)` and `report(evaluation, console)`.
        world: the processes that train together. The main one measures; the others wait.
    """

    def __init__(self, evaluation: Any, world: World = _ALONE) -> None:
        self.evaluation, self.world = evaluation, world
        self._last: tuple[Any, float] | None = None  # after the last step, with its seconds

    def hook(self, model: Any, steps: int, every: int, within: Scope = nullcontext) -> Hook:
        """Metrics evaluation/accuracy, evaluation/mean_tokens and evaluation/truncated, every so
        many steps.

        Args:
            within: the scope in which the model is measured, such as that of averaged weights.
        """

        def measure(step: int, metrics: dict[str, float]) -> None:
            if step % every == 0:
                metrics.update(in_main(self.world, model, lambda: measured(step)))

        def measured(step: int) -> dict[str, float]:
            started = time.perf_counter()
            with within():
                result = self.evaluation.of(model)
            if step == steps:
                self._last = result, time.perf_counter() - started
            values = result.metrics()
            return {
                "evaluation/accuracy": values["accuracy"]["estimate"],
                **{f"evaluation/{name}": values[name] for name in ("mean_tokens", "truncated")},
            }

        return measure

    def after_training(self, model: Any, folder: RunFolder | None, console: Console) -> Any:
        """The evaluation of the trained model, printed, and written to evaluation.json."""
        return self.world.from_main(lambda: self._after_training(model, folder, console))

    def _after_training(self, model: Any, folder: RunFolder | None, console: Console) -> Any:
        if self._last is None:
            started = time.perf_counter()
            result = self.evaluation.of(model)
            seconds = time.perf_counter() - started
        else:
            result, seconds = self._last
        if folder is not None:
            values = {**result.to_json(), "seconds": seconds}
            write_text_whole(folder.path / "evaluation.json", json.dumps(values))
        self.evaluation.report(result, console)
        return result
