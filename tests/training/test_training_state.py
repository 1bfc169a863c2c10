"""Going on from an earlier fit: two fits are one, byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import posttrain as pt
from posttrain.errors import ConfigError
from posttrain.training.training_state import TrainingState

ROWS = [
    {"prompt": f"Q: {a}+2\nA:", "completion": f" {a}+2={a + 2}\n#### {a + 2}"} for a in range(3, 19)
]
QUIET = Console(quiet=True)
WHOLE: dict[str, Any] = {"schedule_steps": 10, "console": QUIET, "weight_decay": 0.1}
MODELS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "dropout": {"dtype": "float32", "lora": {"r": 2, "dropout": 0.2}},
}


def plan(**settings: Any) -> pt.Plan:
    return pt.sft(ROWS, learning_rate=1e-3, batch_size=4, lr_scheduler_type="cosine", **settings)


def loaded(folder: Path, kind: str) -> Any:
    options = dict(MODELS[kind])
    if "lora" in options:
        options["lora"] = pt.LoRA(**options["lora"])
    return pt.load(folder, **options)


def states(model: Any) -> dict[str, Any]:
    return {name: p.detach().clone() for name, p in model.hf.named_parameters()}


def same(a: Any, b: Any) -> bool:
    a, b = states(a), states(b)
    return a.keys() == b.keys() and all(bool((a[n] == b[n]).all()) for n in a)


@pytest.mark.parametrize("kind", MODELS)
def test_two_fits_in_memory_are_one(tiny_folder: Path, kind: str) -> None:
    whole = pt.fit(loaded(tiny_folder, kind), plan(), steps=10, console=QUIET, weight_decay=0.1)
    model = loaded(tiny_folder, kind)
    first = pt.fit(model, plan(), steps=5, **WHOLE)
    second = pt.fit(model, plan(), steps=5, after=first, **WHOLE)
    assert same(second.model, whole.model)
    assert second.metrics["step"] == [6, 7, 8, 9, 10] and second.step == 10
    for name in ("loss", "learning_rate", "num_tokens", "epoch", "grad_norm"):
        assert first.metrics[name] + second.metrics[name] == whole.metrics[name]


@pytest.mark.parametrize("kind", MODELS)
def test_two_fits_in_folders_are_one(tiny_folder: Path, tmp_path: Path, kind: str) -> None:
    whole = pt.fit(loaded(tiny_folder, kind), plan(), steps=10, console=QUIET, weight_decay=0.1)
    model = loaded(tiny_folder, kind)
    first = pt.fit(model, plan(), steps=5, output=tmp_path / "a", **WHOLE)
    assert (tmp_path / "a" / "checkpoint-5").is_dir()
    second = pt.fit(model, plan(), steps=5, after=first, output=tmp_path / "b", **WHOLE)
    assert same(second.model, whole.model)
    assert (tmp_path / "b" / "checkpoint-10").is_dir()


class Killed(Exception):
    """Raised in the middle of a run."""


def test_a_fit_that_was_killed_goes_on_exactly(tiny_folder: Path, tmp_path: Path) -> None:
    """Killed in the second fit; the first one's result is read again from its folder."""
    whole = pt.fit(tiny_folder, plan(), steps=10, console=QUIET, weight_decay=0.1)

    def kill(step: int, metrics: dict[str, float]) -> None:
        if step == 8:
            raise Killed

    a: dict[str, Any] = {"steps": 5, "output": tmp_path / "a", **WHOLE}
    first = pt.fit(tiny_folder, plan(), **a)
    b: dict[str, Any] = {"steps": 5, "output": tmp_path / "b", "save_every": 1, **WHOLE}
    model = tmp_path / "a" / "model"
    with pytest.raises(Killed):
        pt.fit(model, plan(), after=first, hooks=[kill], **b)
    again = pt.fit(tiny_folder, plan(), resume=True, **a)
    second = pt.fit(model, plan(), after=again, resume=True, **b)
    assert same(second.model, whole.model)
    assert second.metrics["loss"] == whole.metrics["loss"][5:]
    assert second.metrics["step"] == [6, 7, 8, 9, 10]


def test_the_state_of_a_critic_goes_on_too(tiny_folder: Path) -> None:
    task = {"name": "arithmetic", "num_examples": 8, "num_steps": 1}
    ppo = pt.ppo(
        task,
        rewards=[{"name": "length", "target": 6}],
        batch_size=2,
        num_generations=2,
        sampling=pt.Sampling(max_tokens=6),
        credit=pt.Credit(whiten=True),  # a KL would be to the model at the start of each fit
        learning_rate=1e-3,
    )
    options: dict[str, Any] = {"schedule_steps": 4, "console": QUIET}
    whole = pt.fit(pt.load(tiny_folder), ppo, steps=4, console=QUIET)
    model = pt.load(tiny_folder)
    first = pt.fit(model, ppo, steps=2, **options)
    second = pt.fit(model, ppo, steps=2, after=first, **options)
    assert same(second.model, whole.model)
    assert same(second.model.critic, whole.model.critic)


def test_a_state_is_handed_over_once(tiny_folder: Path) -> None:
    model = pt.load(tiny_folder)
    first = pt.fit(model, plan(), steps=1, console=QUIET)
    pt.fit(model, plan(), steps=1, after=first, console=QUIET)
    with pytest.raises(ConfigError, match="after"):
        pt.fit(model, plan(), steps=1, after=first, console=QUIET)


def test_other_weights_are_refused(tiny_folder: Path) -> None:
    first = pt.fit(tiny_folder, plan(), steps=1, console=QUIET)
    with pytest.raises(ConfigError, match="after.*norm"):
        pt.fit(tiny_folder, plan(), steps=1, after=first, console=QUIET)


def test_a_run_without_its_last_checkpoint_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"output": tmp_path / "a", "save_final": False, "console": QUIET}
    first = pt.fit(tiny_folder, plan(), steps=1, **options)
    again = pt.fit(tiny_folder, plan(), steps=1, resume=True, **options)
    with pytest.raises(ConfigError, match="save_final"):
        pt.fit(tmp_path / "a" / "model", plan(), steps=1, after=again, console=QUIET)
    pt.fit(tmp_path / "a" / "model", plan(), steps=1, after=first, console=QUIET)  # in memory


def test_a_schedule_that_ends_too_early_is_refused(tiny_folder: Path) -> None:
    first = pt.fit(tiny_folder, plan(), steps=3, console=QUIET)
    with pytest.raises(ConfigError, match="schedule_steps: 4 is below 5"):
        pt.fit(first.model, plan(), steps=2, after=first, schedule_steps=4, console=QUIET)


def test_read_gives_what_was_held(tiny_folder: Path, tmp_path: Path) -> None:
    result = pt.fit(tiny_folder, plan(), steps=2, output=tmp_path / "a", console=QUIET)
    state = TrainingState.read(tmp_path / "a", 2)
    assert state.step == 2 and state.num_tokens == result.metrics[-1]["num_tokens"]
