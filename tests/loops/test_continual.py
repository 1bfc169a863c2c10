"""A sequence of trainings: its matrix, exact resume after a kill, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import posttrain as pt
from posttrain.errors import CheckpointError, ConfigError
from posttrain.loops import continual as module
from posttrain.loops.continual import Continual
from posttrain.models.loaded import trained_weights
from posttrain.retentions.base import Retention
from posttrain.tasks.arithmetic import arithmetic
from posttrain.tasks.sorting import sorting
from posttrain.training.plan import Plan

TASKS = {
    "sums": arithmetic(num_steps=1, num_examples=8),
    "sorting": sorting(num_examples=8, num_numbers=2),
    "longer": sorting(num_examples=8, num_numbers=3, seed=1),
}


def stages() -> dict[str, Plan]:
    return {
        name: pt.sft(task=task, batch_size=4, learning_rate=1e-3) for name, task in TASKS.items()
    }


def run(
    folder: Path | None, retention: Any = "naive", model: str = "embedded", **more: Any
) -> Continual:
    parts: dict[Any, dict[str, Any]] = {
        "o_lora": {"lora": pt.LoRA(r=2)},
        "progressive_prompts": {"adapter": pt.Adapter("prompt", num_virtual_tokens=2)},
    }
    loaded = pt.load(model, **parts.get(str(retention), {}))
    return pt.continual(
        loaded, stages(), retention=retention, steps=2, num_examples=2, output=folder, **more
    )


def test_the_matrix_has_a_row_before_and_after_each_stage(tmp_path: Path) -> None:
    others = {"two": sorting(num_examples=8, num_numbers=2, seed=9)}
    result = run(tmp_path / "out", others=others)
    assert result.scores.shape == (4, 3)
    assert len(result.others["two"]) == 4
    metrics = result.metrics()
    assert metrics["AP"] == pytest.approx(result.scores[-1].mean())
    expected = np.mean([result.scores[-1, i] - result.scores[i + 1, i] for i in range(2)])
    assert metrics["BWT"] == pytest.approx(expected)
    saved = json.loads((tmp_path / "out" / "continual.json").read_text())
    assert saved["scores"] == result.scores.tolist()
    assert (tmp_path / "out" / "model" / "config.json").is_file()
    assert "after" in str(result) and "two" in str(result)


def test_naive_stages_are_fits_one_after_the_other() -> None:
    result = run(None)
    model = pt.load("embedded")
    for number, plan in enumerate(stages().values()):
        pt.fit(model, plan, steps=2, seed=number)
    for name, value in trained_weights(model).items():
        assert torch.equal(value, trained_weights(result.model)[name])


@pytest.mark.parametrize(
    "retention",
    [
        "naive",
        "replay",
        "ewc",
        "agem",
        "lwf",
        "wise_ft",
        "o_lora",
        "der_plus_plus",
        "progressive_prompts",
    ],
)
@pytest.mark.parametrize("where", ["in a fit", "after a fit", "in a measurement"])
def test_an_interrupted_sequence_goes_on_exactly(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_folder: Path,
    retention: str,
    where: str,
) -> None:
    item: Any = {"name": "ewc", "num_sequences": 2} if retention == "ewc" else retention
    model = str(tiny_folder)
    whole = run(tmp_path / "whole", item, model, save_every=1)

    class Killed(BaseException):
        pass

    calls = {"n": 0}

    def killed_at(number: int, real: Any) -> Any:
        def call(*arguments: Any, **more: Any) -> Any:
            calls["n"] += 1
            if calls["n"] == number:
                raise Killed
            return real(*arguments, **more)

        return call

    with monkeypatch.context() as patch:
        if where == "in a fit":
            from posttrain.training import hooks

            patch.setattr(
                hooks.MetricsWriter, "__call__", killed_at(4, hooks.MetricsWriter.__call__)
            )
        elif where == "after a fit":
            patch.setattr(Retention, "end", killed_at(2, Retention.end))
            for kind in Retention.__subclasses__():
                if "end" in vars(kind):
                    patch.setattr(kind, "end", killed_at(2, kind.end))
        else:
            patch.setattr(module._Sequence, "_measured", killed_at(3, module._Sequence._measured))
        with pytest.raises(Killed):
            run(tmp_path / "half", item, model, save_every=1)
    half = run(tmp_path / "half", item, model, save_every=1, resume=True)
    assert half.scores.tolist() == whole.scores.tolist()
    for name, value in trained_weights(whole.model).items():
        assert torch.equal(value, trained_weights(half.model)[name]), name


def test_the_merged_model_of_o_lora_stands_alone(tmp_path: Path) -> None:
    result = run(tmp_path / "out", "o_lora")
    alone = pt.load(str(tmp_path / "out" / "model"))
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.no_grad():
        ours, theirs = (m.hf(input_ids=ids).logits for m in (result.model, alone))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_stages_of_preferences_and_rewards(tmp_path: Path) -> None:
    pairs = [{"prompt": f"{i}?", "chosen": "yes", "rejected": "no"} for i in range(6)]
    for plans in (
        {"one": pt.dpo(pairs, batch_size=2), "two": pt.dpo(pairs[:4], batch_size=2)},
        {
            "one": pt.grpo(TASKS["sums"], batch_size=8, num_generations=4),
            "two": pt.grpo(TASKS["sorting"], batch_size=8, num_generations=4),
        },
    ):
        for retention in ("replay", "agem", {"name": "ewc", "num_sequences": 2}):
            result = pt.continual(
                "embedded",
                plans,
                retention=retention,
                suites={"one": TASKS["sums"], "two": TASKS["sorting"]},
                steps=1,
                num_examples=2,
            )
            assert np.isfinite(result.scores).all()


def test_wrong_calls_are_refused_before_weights(tmp_path: Path) -> None:
    place = str(tmp_path / "none")
    plan = pt.sft([{"text": "a b"}])
    for arguments, error in (
        (({},), ConfigError),
        (({"a": plan},), ConfigError),
        (({"a/b": plan},), ConfigError),
        (({"a": "sft"},), ConfigError),
    ):
        with pytest.raises(error):
            pt.continual(place, *arguments)
    with pytest.raises(ConfigError):
        pt.continual("embedded", stages(), retention="ewcc")
    with pytest.raises(ConfigError):
        pt.continual("embedded", stages(), suites={"other": TASKS["sums"]})


def test_a_folder_of_another_sequence_is_refused(tmp_path: Path) -> None:
    run(tmp_path / "out")
    with pytest.raises(ConfigError):
        run(tmp_path / "out")
    with pytest.raises(CheckpointError):
        run(tmp_path / "out", "replay", resume=True)


def test_a_weight_is_a_setting_of_the_method() -> None:
    method, label = module.retention_of({"name": "ewc", "weight": 1.0})
    assert method.weight == 1.0  # type: ignore[attr-defined]
    assert label == "ewc(weight=1.0)"
