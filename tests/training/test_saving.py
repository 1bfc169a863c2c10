from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from posttrain.errors import TrainingDiverged
from posttrain.models.load import load_model
from posttrain.training.loop import State
from posttrain.training.saving import Saver, check_finite, collapse

SFT: dict[str, Any] = {
    "method": "sft",
    "task": {"name": "arithmetic", "num_examples": 20, "num_steps": 1},
    "batch_size": 4,
    "lr_scheduler_type": "constant",
}


@pytest.fixture
def any_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes may have learning rates that destroy a model."""
    monkeypatch.setattr("posttrain.limits.MAX_LEARNING_RATE", math.inf)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e38])
def test_weights_that_give_nothing_finite_are_refused(value: float, tiny_folder: Path) -> None:
    model = load_model(str(tiny_folder), dtype="float32")
    check_finite(model, State())
    with torch.no_grad():
        dict(model.hf.named_parameters())["model.layers.0.mlp.up_proj.weight"].fill_(value)
    with pytest.raises(
        TrainingDiverged, match=r"after step 3: .*(up_proj|outputs).*not saved.*checkpoint-2"
    ):
        check_finite(model, State(step=3, last_checkpoint="runs/a/checkpoint-2"))


@pytest.mark.usefixtures("any_rate")
def test_a_run_that_ends_with_bad_weights_fails_and_saves_none(
    run_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(
        TrainingDiverged, match="after step 1: .*NaN or infinite.*not saved.*none was saved"
    ):
        run_recipe(**SFT, learning_rate=1e38, max_steps=1, output=str(tmp_path / "run"))
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["metrics.jsonl", "recipe.yaml"]


@pytest.mark.usefixtures("any_rate")
def test_a_good_checkpoint_is_not_replaced_by_a_bad_one(
    run_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    run = {**SFT, "output": str(tmp_path / "run"), "save_every": 1}
    run_recipe(**run, learning_rate=1e-3, max_steps=2)
    with pytest.raises(TrainingDiverged, match="Last good checkpoint: .*checkpoint-2"):
        run_recipe(**run, learning_rate=1e38, max_steps=3, resume=True, accept=["learning_rate"])
    assert (tmp_path / "run" / "checkpoint-2").is_dir() and not (
        tmp_path / "run" / "checkpoint-3"
    ).exists()
    # The model of two steps is kept aside, and the run is not finished.
    assert (tmp_path / "run" / "model-2").is_dir() and not (tmp_path / "run" / "model").exists()


@pytest.mark.usefixtures("any_rate")
def test_a_collapse_is_reported(run_recipe: Callable[..., Path], tmp_path: Path) -> None:
    assert collapse(1.0, 9.9) is None and collapse(0.0, 5.0) is None
    run_recipe(**SFT, learning_rate=1e-3, max_steps=2, output=str(tmp_path / "calm"))
    assert "collapse" not in (tmp_path / "console.txt").read_text()
    run_recipe(**SFT, learning_rate=1e3, max_steps=2, output=str(tmp_path / "wild"))
    assert "the trained weights have grown" in (tmp_path / "console.txt").read_text()


@pytest.mark.parametrize(("stop", "last", "saves"), [(True, 2, 1), (True, 3, 0), (False, 2, 0)])
def test_a_run_that_is_stopped_while_hooks_are_called_is_saved(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stop: bool, last: int, saves: int
) -> None:
    parts: Any = (None, None, None)
    cadence: dict[str, Any] = {"every": 0, "seconds": 0.0, "limit": 1, "final": True}
    state = State(step=3, stop=stop)
    saver = Saver(tmp_path, *parts, state, steps=9, facts={}, **cadence)
    saver.last_step = last
    saved: list[int] = []
    monkeypatch.setattr(saver, "save", saved.append)
    saver.stop()
    assert saved == [3] * saves
