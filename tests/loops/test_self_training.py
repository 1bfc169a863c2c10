"""Self-training as whole runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from support import stopped_and_resumed, tiny_model, told

import posttrain as pt
from posttrain.errors import ConfigError, DataError
from posttrain.loops import self_training as loops
from posttrain.rewards.base import RewardSet
from posttrain.sources.collect import Collector, Prompt
from posttrain.sources.selection import Rule
from posttrain.training.rollout_rows import RolloutRow
from posttrain.types import Example, Request, Sample, Sampling, Task

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
    model = tiny_model(tiny_folder, {"r": 2, "dropout": 0.1} if lora else None)
    raw = {**RAW, "model": model, "restart": restart, "accumulate": lora}
    whole, half = stopped_and_resumed(run_recipe, tmp_path, stop, **raw)
    assert told(whole) == told(half) and len(told(whole)) == 6
    name = "adapter_model.safetensors" if lora else "model.safetensors"
    assert (whole / "model" / name).read_bytes() == (half / "model" / name).read_bytes()
    assert (whole / "rollouts.jsonl").read_text() == (half / "rollouts.jsonl").read_text()
    assert [("filter/kept" in row) for row in told(whole)] == [True, False, False] * 2
    for number in (1, 2):
        rows = [(f / f"round-{number}" / "rows.jsonl").read_bytes() for f in (whole, half)]
        assert rows[0] == rows[1]


def test_a_restarted_round_is_a_run_of_its_own(
    run_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """The last round trains from the first weights with a fresh optimiser: one SFT-like run on
    its rows gives the same.
    """
    import torch

    from posttrain.config import Component, ModelConfig
    from posttrain.models.named import NamedModel
    from posttrain.sources import selected as module
    from posttrain.training.objective import Objective
    from posttrain.training.optim import Optimizer

    batches: list[Any] = []
    real = module.SelectedRows.batches

    def remembered(self: Any, step: int) -> Any:
        for batch in real(self, step):
            batches.append(batch)
            yield batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.SelectedRows, "batches", remembered)
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


def test_a_loop_in_python(tiny_folder: Path) -> None:
    """The keyword-only settings are those of a recipe; the model is trained in place."""
    model = pt.load(tiny_folder)
    settings = {k: v for k, v in RAW.items() if k not in ("method", "task", "sampling")}
    loop = pt.self_training(TASK, sampling=pt.Sampling(max_tokens=12), **settings)
    result = pt.fit(model, loop, console=Console(quiet=True))
    assert isinstance(loop, pt.Loop) and result.model is model
    assert result.metrics["step"] == [1, 2, 3, 4, 5, 6] and result.metrics["round"][3] == 2
    assert {row["step"] for row in result.rollouts} == {1, 4}


class Scripted:
    """An engine that answers by the tokens of the prompt, and remembers what it was asked."""

    def __init__(self, answers: Callable[[tuple[int, ...]], list[int]]) -> None:
        self.answers = answers
        self.asked: list[tuple[int, ...]] = []

    def generate(self, requests: Sequence[Request]) -> list[list[Sample]]:
        self.asked += [r.prompt_ids for r in requests]
        answers = [(self.answers(r.prompt_ids), r.n) for r in requests]
        return [[Sample(a, [0.0] * len(a), [0.0] * len(a), "stop")] * n for a, n in answers]


class FirstRound:
    """The rounds of a loop before anything is done."""

    number = step = 0


def sampled(engine: Any, **more: Any) -> list[RolloutRow]:
    """Rows of the prompts (1,), (2,), (3,), whose right answers are the tokens 11, 12, 13."""
    examples = [Example(str(i), answer=f"[{10 + i}]", id=str(i)) for i in (1, 2, 3)]
    task = Task("toy", examples, lambda text, e: float(text == e.answer), str)
    collector = Collector(
        [Prompt(e, (i + 1,)) for i, e in enumerate(examples)],
        engine,
        RewardSet([("task", 1.0, {})], task=task),
        decode=lambda s: str(s.ids),
        sampling=Sampling(max_tokens=4),
        batch_size=3,
        num_generations=2,
        seed=0,
    )
    rounds: Any = FirstRound()
    return loops._sampled(rounds, collector, Rule(), more.get("hints"))


def trained_on(rows: list[RolloutRow]) -> list[tuple[list[int], list[int]]]:
    sequences = loops._selected(rows)
    return sorted((s.ids[~s.loss_mask].tolist(), s.ids[s.loss_mask].tolist()) for s in sequences)


def test_what_passed_is_trained_on() -> None:
    rows = sampled(Scripted(lambda prompt: [10 + prompt[0]] if prompt[0] != 2 else [0]))
    assert trained_on(rows) == [([1], [11]), ([3], [13])]
    assert sorted(len(row.selected) for row in rows) == [0, 1, 1]


def test_a_failed_prompt_is_asked_again_with_its_answer() -> None:
    engine = Scripted(lambda p: [10 + p[-1]] if len(p) > 1 or p[0] == 1 else [0])
    rows = sampled(engine, hints={str(i): (9, i) for i in (1, 2, 3)})
    assert sorted(engine.asked[3:]) == [(9, 2), (9, 3)]
    # Learnt as if the answer had not been given.
    assert trained_on(rows) == [([1], [11]), ([2], [12]), ([3], [13])]
    assert sum(row.hinted for row in rows) == 2


def test_a_round_that_selects_nothing_is_an_error() -> None:
    with pytest.raises(DataError, match="round 1: .* 0 of 6"):
        sampled(Scripted(lambda prompt: [0]))


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
