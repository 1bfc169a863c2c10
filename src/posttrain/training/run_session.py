"""What a training and a loop of rounds have in common: one run, from a model to a result."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from posttrain.models.loaded import LoadedModel
from posttrain.models.spec import ModelSpec
from posttrain.terminal import write
from posttrain.training import resume
from posttrain.training.finished import finished
from posttrain.training.folder import RunFolder
from posttrain.training.hooks import Hook
from posttrain.training.length import Length
from posttrain.training.measurement import Evaluating, Measured
from posttrain.training.plan import PreparedLoop, Work
from posttrain.training.result import Result
from posttrain.training.settings import TrainingSettings
from posttrain.training.tracking import check_trackers
from posttrain.world import World

_ALONE = World.alone()


class RunSession(ABC):
    """One run, in a folder or in memory: begun, gone on with, or read where it is done.

    Args:
        folder: where it is written; None keeps everything in memory.
        title: of the progress display.
        world: the processes that train together.
    """

    work: Work | PreparedLoop

    def __init__(
        self,
        spec: ModelSpec,
        settings: TrainingSettings,
        *,
        folder: RunFolder | None,
        seed: int,
        hooks: Sequence[Hook],
        evaluation: Evaluating | None,
        console: Console,
        title: str,
        world: World = _ALONE,
    ) -> None:
        check_trackers(list(settings.report_to))
        self.spec, self.settings, self.folder = spec, settings, folder
        self.seed, self.hooks, self.console, self.title = seed, list(hooks), console, title
        self.world = world
        self.measured = Measured(evaluation, world) if evaluation is not None else None

    @property
    @abstractmethod
    def steps(self) -> int:
        """The number of the last step."""

    @property
    @abstractmethod
    def length(self) -> Length:
        """How long the run is."""

    @abstractmethod
    def start(self) -> resume.Start:
        """Where the run stands, with changes of the recipe refused that nobody accepted."""

    def run(self) -> Result:
        """Train, save and measure.

        Raises:
            RankError: another process of the run has failed or ended.
        """
        with self.world.together():
            if self.folder is None:
                return self.run_in_folder()
            self.folder.refuse_existing()
            with self.folder.locked():
                self.folder.refuse_existing()
                return self.run_in_folder()

    def run_in_folder(self) -> Result:
        """As `run`, for a caller that holds the folder's lock."""
        for name, text in self.work.account.losses.items():
            self._print(f"{name}: {text}", style="yellow")
        for note in self.work.notes:
            self._print(note, style="yellow")
        try:
            start = self.start()
            self._begin(start)
            if start.has_model and start.saved.get("steps", self.steps) == self.steps:
                return self._finished(start)
            return self._train(start)
        except BaseException:
            self.spec.give_back()  # where a resume was refused, and has loaded weights
            raise
        finally:
            self.work.close()

    @abstractmethod
    def _begin(self, start: resume.Start) -> None:
        """What comes before the first step, and before a run that is done is read. A model in
        memory takes the weights of the start.
        """

    @abstractmethod
    def _train(self, start: resume.Start) -> Result:
        """Whatever is left to train."""

    @abstractmethod
    def _last_weights(self, start: resume.Start, model: Path) -> Path | None:
        """Where the weights of a run that is done are. model: its folder model/."""

    @abstractmethod
    def _load(self, weights: Path | None) -> Any:
        """The trained model, from its weights."""

    def _finished(self, start: resume.Start) -> Result:
        """The result of a run whose training is done."""
        assert self.folder is not None  # only a folder can hold a finished run
        weights = self._last_weights(start, self.folder.path / "model")

        def load() -> Any:
            model = self._load(weights)
            model.fresh_adapters = False
            return model

        in_memory = isinstance(self.spec, LoadedModel)
        longer = self.length.longer(start)
        measured = self.measured if self.world.is_main else None
        result = finished(self.folder, start, self.steps, measured, load, longer, in_memory)
        self.spec.settle()
        self.world.barrier()
        return result

    def _print(self, text: str, style: str = "") -> None:
        write(self.console, text, style=style)
