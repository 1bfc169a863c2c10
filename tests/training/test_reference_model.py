"""The frozen reference: when it is held, when it moves, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from support import weights_of

import posttrain as pt
from posttrain.config import Component, LoraConfig, ModelConfig
from posttrain.errors import ConfigError
from posttrain.models.spec import model_spec
from posttrain.training.objective import Objective
from posttrain.training.reference_model import Reference

QUIET = Console(quiet=True)
PAIRS = [{"prompt": f"Q: {a}+2\nA:", "chosen": f" {a + 2}", "rejected": f" {a}"} for a in range(8)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / "cache"))


def objective(loss: str = "dpo") -> Objective:
    return Objective([Component(loss)], roles=("chosen", "rejected"))


class Model:
    """Notes how its reference moves."""

    def __init__(self) -> None:
        self.mixes: list[float] = []

    def update_reference(self, mix: float) -> None:
        self.mixes.append(mix)


@pytest.mark.parametrize(
    ("reference", "steps", "expected"),
    [
        (Reference(), 10, []),
        (Reference(every=4, mix=0.5), 10, [4, 8]),
    ],
)
def test_when_it_moves(reference: Reference, steps: int, expected: list[int]) -> None:
    moved = []
    for step in range(1, steps + 1):
        model = Model()
        for hook in reference.hooks(model):
            hook(step, {})
        moved += [step] * len(model.mixes)
        assert model.mixes in ([], [reference.mix])
    assert moved == expected


@pytest.mark.parametrize(
    ("reference", "loss", "held"),
    [
        (Reference(), "dpo", True),
        (Reference(cached=True), "dpo", False),
        (Reference(), "simpo", False),
        (Reference(needed=True), "simpo", True),
    ],
)
def test_whether_it_is_held_in_memory(reference: Reference, loss: str, held: bool) -> None:
    assert reference.in_memory(objective(loss)) == held


@pytest.mark.parametrize(
    ("reference", "loss", "key"),
    [
        (Reference(cached=True), "simpo", "cache_reference"),
        (Reference(every=2), "simpo", "reference_every"),
        (Reference(cached=True, every=2), "dpo", "cache_reference and reference_every"),
        (Reference(every=-1), "dpo", "reference_every: -1"),
        (Reference(every=2, mix=0.0), "dpo", "reference_mix: 0"),
        (Reference(every=2, mix=1.5), "dpo", "reference_mix: 1.5"),
    ],
)
def test_what_cannot_work_is_refused(reference: Reference, loss: str, key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        reference.check(objective(loss))


def test_adapters_are_taken_over_whole(tiny_folder: Path) -> None:
    lora = model_spec(ModelConfig(str(tiny_folder), lora=LoraConfig(r=2)))
    with pytest.raises(ConfigError, match=r"reference_mix: 0.5"):
        Reference(every=2, mix=0.5).check_model(lora)
    Reference(every=2).check_model(lora)
    Reference(every=2, mix=0.5).check_model(model_spec(tiny_folder))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"cache_reference": True},
        {"reference_every": 2},
        {"reference_every": 1, "reference_mix": 0.5},
    ],
)
def test_a_loaded_model_trains_as_a_named_one(tiny_folder: Path, settings: dict[str, Any]) -> None:
    plan = pt.dpo(PAIRS, learning_rate=1e-3, batch_size=4, **settings)
    named = pt.fit(tiny_folder, plan, steps=4, console=QUIET)
    loaded = pt.fit(pt.load(tiny_folder), plan, steps=4, console=QUIET)
    assert weights_of(loaded.model) == weights_of(named.model)
    assert loaded.metrics["loss"] == named.metrics["loss"]


def test_a_reference_that_follows_the_policy_brings_the_loss_back(tiny_folder: Path) -> None:
    """After each move policy and reference agree, and DPO's loss is log 2."""
    plan = pt.dpo(PAIRS, learning_rate=1e-3, batch_size=8, reference_every=2, reference_mix=1.0)
    losses = pt.fit(tiny_folder, plan, steps=5, console=QUIET).metrics["loss"]
    assert [losses[i] for i in (0, 2, 4)] == pytest.approx([0.693147] * 3, abs=1e-4)
    assert max(losses[1], losses[3]) < 0.6925
