"""What a training and a loop of rounds have in common."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from posttrain.data.account import Account
from posttrain.errors import CheckpointError
from posttrain.training import resume
from posttrain.training.run_session import RunSession
from posttrain.training.settings import TrainingSettings


class Recorded(RunSession):
    """A run whose parts say that they are called. fails: the part that raises."""

    def __init__(self, *, start: resume.Start | None = None, fails: str = "") -> None:
        self.calls: list[str] = []
        self.text = io.StringIO()
        spec: Any = SimpleNamespace(
            give_back=lambda: self.calls.append("give back"),
            settle=lambda: self.calls.append("settle"),
        )
        super().__init__(
            spec,
            TrainingSettings(),
            folder=None,
            seed=0,
            hooks=(),
            evaluation=None,
            console=Console(file=self.text, width=80),
            title="recorded",
        )
        work: Any = SimpleNamespace(
            account=Account(), notes=("a note",), close=lambda: self.calls.append("close")
        )
        self.work, self._start, self._fails = work, start or resume.Start(Path()), fails

    @property
    def steps(self) -> int:
        return 4

    @property
    def length(self) -> Any:
        return SimpleNamespace(longer=lambda start: "Train on with more steps.")

    def _called(self, part: str) -> None:
        self.calls.append(part)
        if part == self._fails:
            raise CheckpointError(f"{part} is refused")

    def start(self) -> resume.Start:
        self._called("start")
        return self._start

    def _begin(self, start: resume.Start) -> None:
        self._called("begin")

    def _train(self, start: resume.Start) -> Any:
        self._called("train")
        return "trained"

    def _last_weights(self, start: resume.Start, model: Path) -> Path:
        return model

    def _load(self, weights: Path | None) -> Any:
        self._called("load")
        return SimpleNamespace(weights=weights, fresh_adapters=True)


def test_a_run_in_memory_begins_trains_and_closes() -> None:
    run = Recorded()
    assert run.run() == "trained"  # type: ignore[comparison-overlap]
    assert run.calls == ["start", "begin", "train", "close"]
    assert run.text.getvalue() == "a note\n"


@pytest.mark.parametrize("part", ["start", "begin", "train"])
def test_what_fails_gives_the_weights_back_and_closes(part: str) -> None:
    run = Recorded(fails=part)
    with pytest.raises(CheckpointError):
        run.run()
    assert run.calls[-3:] == [part, "give back", "close"]


def finished_run(folder: Path, steps: int) -> Recorded:
    """A run whose folder holds a model of so many steps."""
    (folder / "model").mkdir()
    start = resume.Start(folder, saved={"steps": steps, "global_step": steps})
    run = Recorded(start=start)
    said: list[str] = []
    run.folder = SimpleNamespace(  # type: ignore[assignment]
        path=folder,
        changes=list,
        write=lambda *lines: said.extend(lines),
        refuse_existing=lambda: run.calls.append("refuse existing"),
        locked=contextlib.nullcontext,
    )
    return run


def test_a_run_that_is_done_is_read_and_its_model_loaded_when_asked_for(tmp_path: Path) -> None:
    run = finished_run(tmp_path, steps=4)
    result = run.run()
    before = ["refuse existing", "refuse existing", "start", "begin", "settle", "close"]
    assert run.calls == before
    assert result.model.weights == tmp_path / "model" and not result.model.fresh_adapters
    assert run.calls == [*before, "load"]


def test_a_run_of_other_length_is_trained(tmp_path: Path) -> None:
    run = finished_run(tmp_path, steps=2)
    assert run.run() == "trained"  # type: ignore[comparison-overlap]
    assert "train" in run.calls and "settle" not in run.calls


def test_a_run_needs_its_parts() -> None:
    with pytest.raises(TypeError, match="_begin"):
        RunSession()  # type: ignore[abstract, call-arg]
