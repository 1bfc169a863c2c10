"""How a run is resumed: from which checkpoint, what changed since, and what moves aside."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from support import weights_of

import posttrain as pt
from posttrain.errors import CheckpointError, ConfigError
from posttrain.training import resume
from posttrain.training.changes import Change
from posttrain.training.ending import Interrupted

QUIET = Console(quiet=True)
ROWS = [{"prompt": f"Q: {a}+2\nA:", "completion": f" {a + 2}"} for a in range(16)]


def started(folder: Path, step: int, steps: int, **options: Any) -> resume.Start:
    saved = {"global_step": step, "steps": steps}
    return resume.Start(folder, folder / f"checkpoint-{step}", saved, **options)


def test_changes_are_refused_unless_accepted(tmp_path: Path) -> None:
    rate = Change("learning_rate", "accept", "learning_rate: 1 -> 2")
    start = started(tmp_path, 3, 4, changes=[rate, Change("save_every", "free", "save_every")])
    with pytest.raises(
        CheckpointError, match=r"learning_rate: 1 -> 2(.|\n)*--accept learning_rate"
    ):
        start.refuse([])
    start.refuse(["learning_rate"])
    start.changes.append(Change("seed", "refused", "seed: 0 -> 1"))
    with pytest.raises(CheckpointError, match="seed: 0 -> 1"):
        start.refuse(["learning_rate", "seed"])


def test_what_is_overwritten_moves_aside(tmp_path: Path) -> None:
    for name in ("model", "model-4", "checkpoint-3", "checkpoint-9"):
        (tmp_path / name).mkdir()
    (tmp_path / "evaluation.json").write_text("{}")
    damaged = [(tmp_path / "checkpoint-9", "its state cannot be read")]
    start = started(tmp_path, 3, 4, damaged=damaged)
    lines = resume.announced(start, 6)
    assert "steps 4 to 6" in lines[1] and "checkpoint-9.damaged" in lines[0]
    resume.set_aside(start)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "checkpoint-3",
        "checkpoint-9.damaged",
        "evaluation-4.json",
        "model-4",
        "model-4-2",
    ]


def test_the_newest_checkpoint_that_can_be_read(tmp_path: Path) -> None:
    assert resume.find_start(tmp_path).checkpoint is None
    (tmp_path / "checkpoint-2").mkdir()
    (tmp_path / "checkpoint-2" / "trainer_state.json").write_text("{")
    with pytest.raises(CheckpointError, match="checkpoint-2"):
        resume.find_start(tmp_path)
    (tmp_path / "model").mkdir()
    start = resume.find_start(tmp_path)
    assert start.has_model and [path.name for path, _ in start.damaged] == ["checkpoint-2"]


def test_changes_of_a_trained_run_that_would_do_nothing_are_refused(tmp_path: Path) -> None:
    longer = Change("max_steps", "length", "max_steps: 4 -> 8")
    rate = Change("learning_rate", "accept", "learning_rate: 1 -> 2")
    free = Change("title", "free", "title")
    resume.refuse_late_changes(started(tmp_path, 4, 4, changes=[longer, free]), 4)
    for start in (
        started(tmp_path, 4, 4, changes=[rate]),
        resume.Start(tmp_path, changes=[longer]),
    ):
        with pytest.raises(CheckpointError, match=start.changes[0].text.replace("+", r"\+")):
            resume.refuse_late_changes(start, 4)


# -- by objects in memory


def plan(steps_are_free: bool = True) -> pt.Plan:
    schedule: Any = "constant" if steps_are_free else "linear"
    return pt.sft(ROWS, learning_rate=1e-2, batch_size=4, lr_scheduler_type=schedule)


@pytest.mark.parametrize("lora", [None, pt.LoRA(r=2), pt.LoRA(r=2, dropout=0.2)])
def test_a_model_in_memory_is_resumed_exactly(tiny_folder: Path, tmp_path: Path, lora: Any) -> None:
    whole = pt.fit(pt.load(tiny_folder, lora=lora), plan(), steps=4, console=QUIET)
    folder = tmp_path / "run"
    pt.fit(pt.load(tiny_folder, lora=lora), plan(), steps=2, output=folder, console=QUIET)
    model = pt.load(tiny_folder, lora=lora)
    result = pt.fit(model, plan(), steps=4, output=folder, resume=True, console=QUIET)
    assert result.model is model
    assert weights_of(model) == weights_of(whole.model)
    assert result.metrics["loss"] == whole.metrics["loss"]


@pytest.mark.parametrize("lora", [None, pt.LoRA(r=2)])
def test_a_second_fit_goes_on_from_the_first(tiny_folder: Path, lora: Any) -> None:
    model = pt.load(tiny_folder, lora=lora)
    first = pt.fit(model, plan(), steps=4, console=QUIET).metrics["loss"]
    middle = weights_of(model)
    second = pt.fit(model, plan(), steps=4, console=QUIET).metrics["loss"]
    assert weights_of(model) != middle
    assert sum(second) < sum(first)


@pytest.mark.parametrize("init", ["pretrained", "random"])
def test_what_a_model_in_memory_holds_does_not_matter(
    tiny_folder: Path, tmp_path: Path, init: Any
) -> None:
    whole = pt.fit(pt.load(tiny_folder), plan(), steps=4, console=QUIET)
    folder = tmp_path / "run"
    pt.fit(pt.load(tiny_folder), plan(), steps=2, output=folder, console=QUIET)
    other = pt.load(tiny_folder, init=init, seed=9)
    pt.fit(other, plan(), steps=1, console=QUIET)
    result = pt.fit(other, plan(), steps=4, output=folder, resume=True, console=QUIET)
    assert result.model is other and weights_of(other) == weights_of(whole.model)


def test_other_rows_in_memory_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    pt.fit(tiny_folder, plan(), steps=2, output=folder, console=QUIET)
    other = pt.sft(ROWS[::-1], learning_rate=1e-2, batch_size=4, lr_scheduler_type="constant")
    with pytest.raises(CheckpointError, match="data"):
        pt.fit(tiny_folder, other, steps=4, output=folder, resume=True, console=QUIET)


@pytest.mark.parametrize("first_loaded", [True, False])
@pytest.mark.parametrize("lora", [None, pt.LoRA(r=2)])
def test_a_name_and_the_model_loaded_by_it_are_one(
    tiny_folder: Path, tmp_path: Path, lora: Any, first_loaded: bool
) -> None:
    def model(loaded: bool) -> Any:
        return pt.load(tiny_folder, lora=lora) if loaded else pt.Model(str(tiny_folder), lora=lora)

    whole = pt.fit(model(True), plan(), steps=4, console=QUIET)
    folder = tmp_path / "run"
    pt.fit(model(first_loaded), plan(), steps=2, output=folder, console=QUIET)
    options: Any = {"output": folder, "resume": True, "console": QUIET}
    result = pt.fit(model(not first_loaded), plan(), steps=4, **options)
    assert weights_of(result.model) == weights_of(whole.model)
    again = pt.fit(model(first_loaded), plan(), steps=4, **options)
    assert weights_of(again.model) == weights_of(whole.model)


def test_a_finished_run_is_taken_over_by_the_model_in_memory(
    tiny_folder: Path, tmp_path: Path
) -> None:
    options: Any = {"steps": 2, "output": tmp_path / "run", "console": QUIET}
    trained = pt.fit(pt.load(tiny_folder), plan(), **options).model
    model = pt.load(tiny_folder)
    assert pt.fit(model, plan(), **options, resume=True).model is model
    assert weights_of(model) == weights_of(trained)


def test_changes_are_accepted_by_name_in_python(tiny_folder: Path, tmp_path: Path) -> None:
    options: Any = {"output": tmp_path / "run", "console": QUIET}
    pt.fit(tiny_folder, plan(False), steps=2, **options)
    with pytest.raises(CheckpointError, match=r"accept=\['max_steps'\]"):
        pt.fit(tiny_folder, plan(False), steps=4, **options, resume=True)
    for name, steps in (("max_steps", 4), ("steps", 5)):
        result = pt.fit(
            tiny_folder, plan(False), steps=steps, **options, resume=True, accept=[name]
        )
        assert result.metrics["step"][-1] == steps
    with pytest.raises(ConfigError, match="lerning_rate"):
        pt.fit(tiny_folder, plan(), steps=4, **options, resume=True, accept=["lerning_rate"])


def test_a_change_of_length_is_told_once(tmp_path: Path) -> None:
    longer = Change("max_steps", "length", "max_steps: 4 -> 8")
    effect = Change("max_steps", "accept", "steps: 4 -> 8")
    told = "\n".join(resume.announced(started(tmp_path, 3, 4, changes=[longer, effect]), 8))
    assert told.count("4 -> 8") == 1 and "(accepted)" in told
    told = "\n".join(resume.announced(started(tmp_path, 3, 4, changes=[longer]), 8))
    assert told.count("4 -> 8") == 1


def ctrl_c(step: int, metrics: dict[str, float]) -> None:
    if step == 2:
        os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_in_memory_is_the_usual_exception(tiny_folder: Path) -> None:
    model = pt.load(tiny_folder)
    with pytest.raises(KeyboardInterrupt):
        pt.fit(model, plan(), steps=4, hooks=[ctrl_c], console=QUIET)
    assert not model.hf.training
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    pt.fit(model, plan(), steps=1, console=QUIET)


def test_ctrl_c_in_a_folder_saves_and_goes_on_exactly(tiny_folder: Path, tmp_path: Path) -> None:
    whole = pt.fit(tiny_folder, plan(False), steps=4, console=QUIET)
    folder = tmp_path / "run"
    go_on = r"pt\.fit\(model, plan, steps=4, output='.*run', resume=True\)"
    with pytest.raises(Interrupted, match=f"step 2 of 4.*{go_on}"):
        pt.fit(tiny_folder, plan(False), steps=4, output=folder, hooks=[ctrl_c], console=QUIET)
    result = pt.fit(tiny_folder, plan(False), steps=4, output=folder, resume=True, console=QUIET)
    assert weights_of(result.model) == weights_of(whole.model)
