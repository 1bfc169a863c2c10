"""Self-training as whole runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import stopped_and_resumed, told

from posttrain.errors import ConfigError, DataError

TASK = {"name": "arithmetic", "num_examples": 10, "num_steps": 1}
RAW: dict[str, Any] = {
    "method": "self_training",
    "task": TASK,
    "rewards": [{"name": "length", "target": 6}],
    "num_rounds": 2,
    "steps_per_round": 3,
    "num_generations": 4,
    "min_reward": None,
    "top_fraction": 0.5,
    "prompts_per_round": 4,
    "batch_size": 3,
    "learning_rate": 1e-3,
    "sampling": {"max_tokens": 12},
}


@pytest.mark.parametrize(
    ("restart", "lora", "stop"),
    [(False, False, 2), (True, False, 4), (True, True, 5)],
    ids=["within a round", "restarted, after sampling", "adapters"],
)
def test_resume_is_exact(
    run_recipe: Callable[..., Path],
    tmp_path: Path,
    tiny_folder: Path,
    restart: bool,
    lora: bool,
    stop: int,
) -> None:
    model = {
        "path": str(tiny_folder),
        "dtype": "float32",
        **({"lora": {"r": 2, "dropout": 0.1}} if lora else {}),
    }
    raw = {**RAW, "model": model, "restart": restart, "accumulate": lora}
    whole, half = stopped_and_resumed(run_recipe, tmp_path, stop, **raw)
    assert told(whole) == told(half) and len(told(whole)) == 6
    name = "adapter_model.safetensors" if lora else "model.safetensors"
    assert (whole / "model" / name).read_bytes() == (half / "model" / name).read_bytes()
    assert (whole / "rollouts.jsonl").read_text() == (half / "rollouts.jsonl").read_text()
    assert [("filter/kept" in row) for row in told(whole)] == [True, False, False] * 2


def test_a_restarted_round_is_a_run_of_its_own(
    run_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """The last round trains from the first weights with a fresh optimiser: one SFT-like run on
    its rows gives the same.
    """
    import torch

    from posttrain.config import Component, ModelConfig
    from posttrain.models.named import NamedModel
    from posttrain.sources import self_training as module
    from posttrain.training.objective import Objective
    from posttrain.training.optim import Optimizer

    batches: list[Any] = []
    real = module.SelfTrainingSource.batches

    def remembered(self: Any, step: int) -> Any:
        for batch in real(self, step):
            batches.append(batch)
            yield batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.SelfTrainingSource, "batches", remembered)
        raw = {**RAW, "restart": True, "lr_scheduler_type": "constant"}
        folder = run_recipe(**raw, output=str(tmp_path / "rounds"))

    spec = NamedModel(ModelConfig(**json_model(folder)))
    model = spec.load()
    model.train()
    objective = Objective([Component("nll")], accuracy=True)
    optimizer = Optimizer(
        model.trainable_parameters(),
        steps=6,
        learning_rate=raw["learning_rate"],
        schedule="constant",
        rate_factors=model.rate_factors,
    )
    for step, batch in enumerate(batches[3:]):
        for micro in batch.split(2048):
            objective(model.forward(micro, objective.needs), micro, objective.denominators(batch))[
                0
            ].backward()
        optimizer.clip_gradients()
        optimizer.step(step)
    from safetensors.torch import load_file

    for name, value in load_file(folder / "model" / "model.safetensors").items():
        assert torch.equal(value, model.hf.get_parameter(name)), name


def json_model(folder: Path) -> Any:
    import yaml

    return yaml.safe_load((folder / "recipe.yaml").read_text())["model"]


def test_bad_settings(run_recipe: Callable[..., Path]) -> None:
    def refused(message: str, **more: Any) -> None:
        with pytest.raises(ConfigError, match=message):
            run_recipe(**{**RAW, **more})

    refused("num_rounds: 0 must be at least 1", num_rounds=0)
    refused("steps_per_round: 0", steps_per_round=0)
    refused("prompts_per_round: 0", prompts_per_round=0)
    refused("nothing is filtered", top_fraction=1.0)
    refused(r"must hold \{prompt\} and \{answer\}", rationalise="the answer is {answer}")
    refused("with its answer has .* tokens", rationalise="{prompt}" + "z" * 600 + "{answer}")


def test_a_round_without_a_right_answer_says_so(run_recipe: Callable[..., Path]) -> None:
    raw = {**RAW, "rewards": ["task"], "min_reward": 1.0, "top_fraction": 1.0}
    with pytest.raises(
        DataError, match="round 1: nothing is kept. 0 of 16 completions .* a pass rate of 0%"
    ):
        run_recipe(**raw)


@pytest.mark.slow
def test_self_training_raises_accuracy(run_recipe: Callable[..., Path]) -> None:
    """The embedded model on its own right answers, against itself on the same held-out
    problems, paired (seed 0).
    """
    from posttrain.evaluation.comparison import compare
    from posttrain.evaluation.outcomes import read_evaluation

    problem = {"name": "arithmetic", "num_steps": 2, "max_operand": 60, "max_value": 249}
    folder = run_recipe(
        method="pipeline",
        model={"path": "embedded", "dtype": "float32"},
        evaluation={
            "task": {**problem, "split": "test", "num_examples": 150, "seed": 1},
            "num_examples": 150,
            "num_samples": 4,
        },
        stages=[
            {"name": "base", "method": "evaluate"},
            {
                "name": "star",
                "method": "self_training",
                "task": {**problem, "num_examples": 200},
                "num_rounds": 2,
                "steps_per_round": 20,
                "num_generations": 4,
                "batch_size": 32,
                "learning_rate": 3e-4,
            },
        ],
    )
    difference = compare(
        read_evaluation(folder / "base"), read_evaluation(folder / "star")
    ).difference
    assert difference.low > 0.02, difference
