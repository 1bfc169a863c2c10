"""A job is done with or without a folder, and what it holds is released in any case."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from support import without_weights

import posttrain as pt
from posttrain.errors import ConfigError
from posttrain.models.loaded import LoadedModel
from posttrain.models.named import NamedModel
from posttrain.training.perform import perform
from posttrain.training.plan import Job, PreparedJob

QUIET = Console(quiet=True)


class Writing:
    """A job that writes one file, and notes what it was given."""

    def __init__(self, fails: bool = False) -> None:
        self.fails = fails
        self.closed = 0
        self.model: Any = "not asked"
        self.seeds: list[int] = []
        self.place = Path()

    def job(self) -> Job:
        return Job(method="writing", prepare=self.prepare, leaves="out.txt")

    def prepare(self, model: Any, seed: int) -> PreparedJob:
        self.model = model
        self.seeds.append(seed)
        return PreparedJob(facts=[("a", "b")], run=self.run, close=self.close)

    def run(self, place: Any) -> str:
        self.seeds.append(place.seed)
        place.open()
        self.place = place.path
        (place.path / "out.txt").write_text("done")
        if self.fails:
            raise RuntimeError("no")
        return "result"

    def close(self) -> None:
        self.closed += 1


def test_a_job_without_output_leaves_no_files() -> None:
    writing = Writing()
    assert perform(None, writing.job(), seed=5, console=QUIET) == "result"
    assert not writing.place.exists() and writing.closed == 1
    assert writing.model is None and writing.seeds == [5, 5]


def test_a_job_with_output_leaves_them_and_is_not_overwritten(tmp_path: Path) -> None:
    writing = Writing()
    perform(None, writing.job(), output=tmp_path / "job", console=QUIET)
    assert (tmp_path / "job" / "out.txt").read_text() == "done"
    assert "method: writing" in (tmp_path / "job" / "recipe.yaml").read_text()
    again = Writing()
    with pytest.raises(ConfigError, match=str(tmp_path / "job")):
        perform(None, again.job(), output=tmp_path / "job", console=QUIET)
    assert again.place == Path()


def test_what_a_failed_job_holds_is_released() -> None:
    writing = Writing(fails=True)
    with pytest.raises(RuntimeError):
        perform(None, writing.job(), console=QUIET)
    assert writing.closed == 1 and not writing.place.exists()


def test_models_are_passed_as_specs(tiny_folder: Path) -> None:
    named, loaded = Writing(), Writing()
    perform(tiny_folder, named.job(), seed=3, console=QUIET)
    perform(pt.load(tiny_folder), loaded.job(), console=QUIET)
    assert isinstance(named.model, NamedModel) and named.model.seed == 3
    assert isinstance(loaded.model, LoadedModel)


def test_samples_are_the_same_in_memory_and_in_a_folder(tmp_path: Path) -> None:
    task = {"name": "arithmetic", "num_steps": 1, "num_examples": 4}

    def rows(model: Any, output: Path | None, seed: int) -> Any:
        settings: dict[str, Any] = {"num_generations": 2, "min_reward": 0.0, "console": QUIET}
        return list(pt.sample(model, task, output=output, seed=seed, **settings))

    in_memory = rows("embedded", None, 1)
    assert in_memory and rows("embedded", tmp_path / "job", 1) == in_memory
    assert rows(pt.load("embedded"), None, 1) == in_memory
    assert rows("embedded", None, 2) != in_memory


def test_mistakes_are_found_before_weights(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_weights(monkeypatch)
    task = pt.make_task([{"prompt": "a"}])
    with pytest.raises(ConfigError, match="max_tokens: 1000000"):
        pt.sample(tiny_folder, task, rewards=["length"], sampling=pt.Sampling(max_tokens=1_000_000))


def test_a_folder_that_does_not_stay_is_not_named(tmp_path: Path) -> None:
    rows = [{"prompt": "Q: 1+2\nA:", "answer": "3"}]
    options: dict[str, Any] = {"num_generations": 1, "sampling": pt.Sampling(max_tokens=4)}
    options["keep_truncated"] = True
    for output in (None, tmp_path / "run"):
        out = io.StringIO()
        console = Console(file=out, width=200)
        assert pt.sample("embedded", rows, output=output, console=console, **options)
        assert ("samples.jsonl" in out.getvalue()) == (output is not None)
