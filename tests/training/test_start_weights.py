"""The weights of a run's start, which a resume with a model in memory may need."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from support import weights_of

import posttrain as pt
from posttrain.errors import CheckpointError
from posttrain.training.ending import Interrupted
from posttrain.training.start_weights import START

QUIET = Console(quiet=True)
ROWS = [{"prompt": f"Q: {a}+2\nA:", "completion": f" {a + 2}"} for a in range(16)]
PAIRS = [{"prompt": r["prompt"], "chosen": r["completion"], "rejected": " x"} for r in ROWS]
RATE: dict[str, Any] = {"learning_rate": 1e-2, "lr_scheduler_type": "constant"}
PROBLEMS = {"name": "arithmetic", "num_examples": 8, "num_steps": 1}


def sft() -> pt.Plan:
    return pt.sft(ROWS, batch_size=4, **RATE)


def dpo(**settings: Any) -> pt.Plan:
    return pt.dpo(PAIRS, batch_size=4, **RATE, **settings)


def grpo() -> pt.Plan:
    return pt.grpo(
        PROBLEMS,
        rewards={"name": "length", "target": 6},
        losses=["clipped", {"name": "kl", "weight": 0.1}],
        num_generations=2,
        batch_size=2,
        sampling=pt.Sampling(max_tokens=6),
        **RATE,
    )


def self_training() -> pt.Plan:
    return pt.self_training(
        PROBLEMS,
        rewards={"name": "length", "target": 6},
        min_reward=-100.0,
        num_generations=2,
        num_rounds=2,
        steps_per_round=2,
        restart=True,
        batch_size=4,
        sampling=pt.Sampling(max_tokens=6),
        **RATE,
    )


def ctrl_c(step: int, metrics: dict[str, float]) -> None:
    if step == 2:
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
    ("make", "lora", "kept"),
    [
        (sft, None, False),
        (dpo, None, True),
        # The reference is base and adapters together: the base alone is not enough.
        (dpo, pt.LoRA(r=2), True),
        (lambda: dpo(reference_every=1), None, True),
        (lambda: dpo(cache_reference=True), None, True),
        (grpo, None, True),
        (self_training, None, True),
    ],
)
def test_a_model_that_has_learnt_before_and_since(
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Any,
    lora: Any,
    kept: bool,
) -> None:
    """fit, fit in a folder, resume: bit for bit the run in one go."""
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / "cache"))

    def trained() -> Any:
        model = pt.load(tiny_folder, lora=lora)
        pt.fit(model, sft(), steps=2, console=QUIET)
        return model

    options: Any = {"output": tmp_path / "run", "console": QUIET}
    whole = pt.fit(trained(), make(), steps=4, console=QUIET)
    model = trained()
    with pytest.raises(Interrupted):
        pt.fit(model, make(), steps=4, **options, hooks=[ctrl_c])
    assert (tmp_path / "run" / START).exists() == kept
    pt.fit(model, sft(), steps=1, console=QUIET)
    result = pt.fit(model, make(), steps=4, **options, resume=True)
    assert weights_of(model) == weights_of(whole.model)
    assert result.metrics["loss"] == whole.metrics["loss"]
    assert result.model is model


def test_adapters_that_began_with_the_run(tiny_folder: Path, tmp_path: Path) -> None:
    """Their reference is the base, also where the model has been trained on since."""
    lora = pt.LoRA(r=2)
    options: Any = {"output": tmp_path / "run", "console": QUIET}
    whole = pt.fit(pt.load(tiny_folder, lora=lora), dpo(), steps=4, console=QUIET)
    model = pt.load(tiny_folder, lora=lora)
    with pytest.raises(Interrupted):
        pt.fit(model, dpo(), steps=4, **options, hooks=[ctrl_c])
    assert not (tmp_path / "run" / START).exists()
    pt.fit(model, sft(), steps=1, console=QUIET)
    assert not model.fresh_adapters
    with pytest.raises(CheckpointError):
        pt.fit(model, dpo(losses=["ipo"]), steps=4, **options, resume=True)
    assert not model.fresh_adapters
    result = pt.fit(model, dpo(), steps=4, **options, resume=True)
    assert weights_of(model) == weights_of(whole.model)
    assert result.metrics["loss"] == whole.metrics["loss"]


def test_a_run_by_name_that_needs_its_start_takes_it_from_there(
    tiny_folder: Path, tmp_path: Path
) -> None:
    whole = pt.fit(tiny_folder, dpo(), steps=4, console=QUIET)
    options: Any = {"output": tmp_path / "run", "console": QUIET}
    pt.fit(tiny_folder, dpo(), steps=2, **options)
    model = pt.load(tiny_folder)
    pt.fit(model, sft(), steps=2, console=QUIET)
    pt.fit(model, dpo(), steps=4, **options, resume=True)
    assert weights_of(model) == weights_of(whole.model)


def test_a_name_does_not_stand_for_a_model_that_had_learnt(
    tiny_folder: Path, tmp_path: Path
) -> None:
    model = pt.load(tiny_folder)
    pt.fit(model, sft(), steps=2, console=QUIET)
    options: Any = {"output": tmp_path / "run", "console": QUIET}
    pt.fit(model, dpo(), steps=2, **options)
    with pytest.raises(CheckpointError, match=r"weights(.|\n)*loaded model"):
        pt.fit(tiny_folder, dpo(), steps=4, **options, resume=True)


@pytest.mark.parametrize("change", ["rate", "shape", "frozen", "rows", "damaged"])
def test_a_refused_resume_leaves_the_model_as_it_was(
    tiny_folder: Path, tmp_path: Path, change: str
) -> None:
    lora = pt.LoRA(r=2) if change == "frozen" else None
    options: Any = {"output": tmp_path / "run", "console": QUIET}
    pt.fit(pt.load(tiny_folder, lora=lora), dpo(), steps=2, **options)
    model = pt.load(tiny_folder, lora=pt.LoRA(r=4) if change == "shape" else lora)
    pt.fit(model, sft(), steps=1, console=QUIET)
    if change == "frozen":
        with torch.no_grad():
            next(p for p in model.hf.parameters() if not p.requires_grad).add_(1e-3)
    if change == "damaged":
        (tmp_path / "run" / START).write_bytes(b"no tensors")
    settings: dict[str, Any] = {"rate": {"losses": {"name": "ipo"}}}.get(change, {})
    plan = dpo(**settings)
    if change == "rows":
        plan = pt.dpo(PAIRS[::-1], batch_size=4, **RATE)
    before, files = weights_of(model), sorted((tmp_path / "run").iterdir())
    with pytest.raises(CheckpointError):
        pt.fit(model, plan, steps=4, **options, resume=True)
    assert weights_of(model) == before and not model.hf.training
    assert sorted((tmp_path / "run").iterdir()) == files
    pt.fit(model, sft(), steps=1, console=QUIET)


@pytest.mark.parametrize("kind", ["adalora", "ia3", "prompt", "partial"])
def test_other_adapters_in_memory(tiny_folder: Path, tmp_path: Path, kind: Any) -> None:
    adapter = pt.Adapter(kind, last_layers=int(kind == "partial"))
    options: Any = {"output": tmp_path / "run", "console": QUIET}
    whole = pt.fit(pt.load(tiny_folder, adapter=adapter), sft(), steps=4, console=QUIET)
    model = pt.load(tiny_folder, adapter=adapter)
    with pytest.raises(Interrupted):
        pt.fit(model, sft(), steps=4, **options, hooks=[ctrl_c])
    pt.fit(model, sft(), steps=1, console=QUIET)
    pt.fit(model, sft(), steps=4, **options, resume=True)
    assert weights_of(model) == weights_of(whole.model)
