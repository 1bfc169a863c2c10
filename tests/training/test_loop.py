from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from posttrain.config import Component
from posttrain.data.forest import TokenSequence
from posttrain.errors import TrainingDiverged
from posttrain.models.language_model import LanguageModel
from posttrain.sources.rows import DataSource
from posttrain.training.loop import State, train
from posttrain.training.objective import Objective
from posttrain.training.optim import Optimizer


def tiny(seed: int = 0, **changes: Any) -> LanguageModel:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=48,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        **changes,
    )
    model = LanguageModel(LlamaForCausalLM(config), None)  # type: ignore[arg-type]
    model.share_trunks()
    assert model.shares_trunks
    return model


def rows(count: int = 24) -> list[list[TokenSequence]]:
    draw = np.random.default_rng(0)
    out = []
    for i in range(count):
        length = int(draw.integers(4, 24))
        ids = (np.arange(length) * 5 + draw.integers(0, 48)) % 48
        out.append([TokenSequence(ids, np.arange(length) >= draw.integers(1, 4), row=f"row {i}")])
    return out


def run(
    model: LanguageModel,
    steps: int,
    *,
    state: State | None = None,
    optimizer: Optimizer | None = None,
    max_tokens: int = 1000,
    total: int | None = None,
    source: DataSource | None = None,
) -> tuple[list[dict[str, float]], Optimizer]:
    source = source or DataSource(rows(), batch_size=8, seed=1)
    optimizer = optimizer or Optimizer(
        model.trainable_parameters(), steps=total or steps, learning_rate=1e-2, warmup_steps=2
    )
    told: list[dict[str, float]] = []
    train(
        model,
        source,
        Objective([Component("nll")]),
        optimizer,
        [lambda step, metrics: told.append(metrics)],
        state or State(),
        steps=steps,
        max_tokens=max_tokens,
    )
    return told, optimizer


def weights(model: LanguageModel) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.hf.state_dict().items()}


def test_learns_and_tells() -> None:
    told, _ = run(tiny(), 12)
    assert told[-1]["loss"] < 0.7 * told[0]["loss"]
    assert told[0]["loss"] == pytest.approx(np.log(48), rel=0.1)
    assert {
        "loss",
        "grad_norm",
        "learning_rate",
        "num_tokens",
        "step_time",
        "epoch",
        "entropy",
    } <= told[0].keys()
    assert [t["num_tokens"] for t in told] == sorted(t["num_tokens"] for t in told)
    assert told[2]["epoch"] == 1.0


def test_micro_batches_change_nothing_but_rounding() -> None:
    whole, _ = run(tiny(), 6)
    cut, _ = run(tiny(), 6, max_tokens=30)
    for a, b in zip(whole, cut, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-3)
        assert a["entropy"] == pytest.approx(b["entropy"], rel=1e-4)
        assert a["num_tokens"] == b["num_tokens"]


def test_same_seed_same_weights() -> None:
    a, b = tiny(), tiny()
    run(a, 5)
    run(b, 5)
    for key, value in weights(a).items():
        assert torch.equal(value, weights(b)[key])


def test_a_loss_that_is_not_finite_stops_before_the_update() -> None:
    model = tiny()
    source = DataSource(rows(), batch_size=8, seed=1)
    run(model, 2, source=source, total=4)
    with torch.no_grad():
        model.hf.model.layers[0].mlp.up_proj.weight[0, 0] = float("nan")
    before = weights(model)
    with pytest.raises(TrainingDiverged, match=r"step 1: .*row \d+.*somewhere"):
        run(model, 4, source=source, state=State(last_checkpoint="somewhere"))
    for key, value in weights(model).items():
        assert torch.equal(value.nan_to_num(), before[key].nan_to_num())


def test_a_gradient_that_is_not_finite_stops_too() -> None:
    model = tiny()
    parameter = model.hf.model.layers[0].mlp.up_proj.weight
    parameter.register_hook(lambda g: g * float("inf"))
    with pytest.raises(TrainingDiverged, match="gradient norm is (nan|inf)"):
        run(model, 1)


def test_stop_ends_after_the_step_at_hand() -> None:
    state = State()
    model = tiny()
    source = DataSource(rows(), batch_size=8, seed=1)
    optimizer = Optimizer(model.trainable_parameters(), steps=10, learning_rate=1e-3)
    seen: list[int] = []

    def stop(step: int, metrics: dict[str, float]) -> None:
        seen.append(step)
        state.stop = step == 3

    train(
        model,
        source,
        Objective([Component("nll")]),
        optimizer,
        [stop],
        state,
        steps=10,
        max_tokens=1000,
    )
    assert seen == [1, 2, 3] and state.step == 3


def test_per_target_weights_scale_loss_and_denominator() -> None:
    """Weight 0 is the same as no target; a common factor changes nothing."""

    def value(scale: float, drop: bool) -> float:
        groups = rows(6)
        for i, (s,) in enumerate(groups):
            s.streams["weights"] = np.full(
                len(s.ids), 0.0 if drop and i == 0 else scale, dtype=np.float32
            )
        told, _ = run(tiny(), 1, source=DataSource(groups, batch_size=6, seed=0))
        return told[0]["loss"]

    assert value(1.0, False) == pytest.approx(value(3.0, False), rel=1e-5)
    without = run(tiny(), 1, source=DataSource(rows(6)[1:], batch_size=5, seed=0))[0][0]["loss"]
    assert value(1.0, True) == pytest.approx(without, rel=1e-5)


def test_the_loss_of_several_updates_is_their_mean() -> None:
    class Twice(DataSource):
        def batches(self, step: int) -> Any:
            for _ in range(2):
                yield from super().batches(step)

    model = tiny()
    optimizer = Optimizer(model.trainable_parameters(), steps=1, learning_rate=0.0)
    told, _ = run(
        model, 1, optimizer=optimizer, source=Twice(rows(), batch_size=8, seed=1), max_tokens=40
    )
    once, _ = run(tiny(), 1)
    assert told[0]["loss"] == pytest.approx(once[0]["loss"], rel=1e-5)
