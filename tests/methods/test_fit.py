"""`fit` in Python: models, rows and results in memory, folders and resume without a recipe."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import posttrain as pt
from posttrain.errors import CheckpointError, ConfigError, ModelError

ROWS = [
    {"prompt": f"Q: {a}+2\nA:", "completion": f" {a}+2={a + 2}\n#### {a + 2}"} for a in range(3, 19)
]
TASK = {"name": "arithmetic", "num_steps": 2, "num_examples": 12}
QUIET = Console(quiet=True)


def digest(model: Any) -> str:
    """Of all weights."""
    content = hashlib.sha256()
    for name, parameter in model.hf.named_parameters():
        content.update(name.encode() + parameter.detach().numpy().tobytes())
    return content.hexdigest()


def plan() -> pt.Plan:
    return pt.sft(ROWS, learning_rate=1e-3, batch_size=4)


def test_a_loaded_model_is_trained_in_place(tiny_folder: Path) -> None:
    model = pt.load(tiny_folder)
    before = digest(model)
    result = pt.fit(model, plan(), steps=3, console=QUIET)
    assert result.model is model and digest(model) != before
    assert result.metrics["step"] == [1, 2, 3] and len(result.metrics["loss"]) == 3
    assert result.folder is None and result.rollouts == [] and result.evaluation is None


def test_memory_and_folder_give_the_same_weights(tiny_folder: Path, tmp_path: Path) -> None:
    model = pt.load(tiny_folder)
    pt.fit(model, plan(), steps=3, console=QUIET)
    result = pt.fit(tiny_folder, plan(), steps=3, output=tmp_path / "run", console=QUIET)
    assert digest(result.model) == digest(model)
    assert digest(pt.load(tmp_path / "run" / "model")) == digest(model)
    assert result.folder == tmp_path / "run"


@pytest.mark.parametrize("loaded", [False, True])
def test_a_longer_run_goes_on_exactly(tiny_folder: Path, tmp_path: Path, loaded: bool) -> None:
    constant = pt.sft(
        ROWS, learning_rate=1e-3, batch_size=4, lr_scheduler_type="constant_with_warmup"
    )

    def start() -> Any:
        return pt.load(tiny_folder) if loaded else tiny_folder

    whole = pt.fit(tiny_folder, constant, steps=4, console=QUIET)
    folder = tmp_path / "run"
    pt.fit(start(), constant, steps=2, output=folder, console=QUIET)
    result = pt.fit(start(), constant, steps=4, output=folder, resume=True, console=QUIET)
    assert digest(result.model) == digest(whole.model)
    assert result.metrics["loss"] == whole.metrics["loss"]
    again = pt.fit(start(), constant, steps=4, output=folder, resume=True, console=QUIET)
    assert digest(again.model) == digest(whole.model)


def test_a_folder_is_never_overwritten(tiny_folder: Path, tmp_path: Path) -> None:
    pt.fit(tiny_folder, plan(), steps=1, output=tmp_path / "run", console=QUIET)
    with pytest.raises(ConfigError, match="already holds a run"):
        pt.fit(tiny_folder, plan(), steps=1, output=tmp_path / "run", console=QUIET)
    with pytest.raises(CheckpointError, match="learning_rate"):
        other = pt.sft(ROWS, learning_rate=2e-3, batch_size=4)
        pt.fit(tiny_folder, other, steps=2, output=tmp_path / "run", resume=True, console=QUIET)


def test_unknown_settings_name_the_nearest(tiny_folder: Path) -> None:
    with pytest.raises(ConfigError, match="'weight_deacy'.*weight_decay"):
        pt.fit(tiny_folder, plan(), steps=1, weight_deacy=0.1)


def test_hooks_see_each_step(tiny_folder: Path) -> None:
    steps: list[int] = []
    pt.fit(tiny_folder, plan(), steps=2, hooks=[lambda step, m: steps.append(step)], console=QUIET)
    assert steps == [1, 2]


def test_the_global_generators_are_given_back(tiny_folder: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    pt.fit(tiny_folder, plan(), steps=1, console=QUIET)
    assert torch.equal(torch.rand(2), expected)


def test_a_lambda_rewards_completions_in_memory() -> None:
    task = pt.make_task([{"prompt": f"Q: {a}+2\nA:"} for a in range(4, 8)])
    short = lambda completions: [-float(len(c)) for c in completions]  # noqa: E731
    plan = pt.grpo(task, rewards=short, num_generations=2, batch_size=2)
    result = pt.fit("embedded", plan, steps=1, console=QUIET)
    assert len(result.rollouts) == 2
    completion = result.rollouts[0]["completions"][0]
    assert completion["reward"] == -len(completion["text"])


def test_a_second_fit_compares_with_the_model_as_it_is(tiny_folder: Path) -> None:
    """The reference of a run is the model that the run starts from, not that of the run before."""
    pairs = [{"prompt": r["prompt"], "chosen": r["completion"], "rejected": " 1"} for r in ROWS]
    model = pt.load(tiny_folder)
    for _ in range(2):
        dpo = pt.dpo(pairs, learning_rate=1e-3, batch_size=8)
        result = pt.fit(model, dpo, steps=2, console=QUIET)
        assert result.metrics["loss"][0] == pytest.approx(0.6931, abs=1e-3)
        assert result.metrics["loss"][1] < 0.69


def test_rounds_of_sampling_and_training_are_a_loop() -> None:
    model = pt.load("embedded")
    for _ in range(3):
        rows = pt.sample(model, TASK, num_generations=2, min_reward=0.0, console=QUIET)
        best = [row for row in rows if row["reward"] == 1.0] or rows
        pt.fit(model, pt.sft(best, batch_size=4), steps=2, console=QUIET)
    assert pt.evaluate(model, TASK, num_examples=4).accuracy().n == 4


@pytest.mark.parametrize("problems", ["task", "rows"])
def test_a_task_or_rows_are_measured_on_the_way(problems: str) -> None:
    rows = [{"prompt": f"Q: {a}+2\nA:", "answer": str(a + 2)} for a in range(3)]
    given: Any = pt.make_task(rows) if problems == "task" else rows
    result = pt.fit("embedded", plan(), steps=2, eval_every=1, evaluation=given, console=QUIET)
    assert len(result.metrics["evaluation/accuracy"]) == 2
    measured = pt.evaluate(result.model, given)
    assert result.evaluation.metrics()["accuracy"] == measured.metrics()["accuracy"]


def test_a_run_stands_for_its_model(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    pt.fit(tiny_folder, plan(), steps=1, output=run, console=QUIET)
    assert digest(pt.load(run)) == digest(pt.load(run / "model"))
    assert str(run / "model") in capsys.readouterr().err
    on = pt.fit(run, plan(), steps=1, console=QUIET)
    whole = pt.fit(run / "model", plan(), steps=1, console=QUIET)
    assert digest(on.model) == digest(whole.model)
    evaluations = [pt.evaluate(m, TASK, num_examples=2) for m in (run, run / "model")]
    assert evaluations[0].metrics() == evaluations[1].metrics()


def test_a_run_without_a_model_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("method: sft\nin_python: true\n")
    with pytest.raises(ModelError, match="resume=True"):
        pt.load(tmp_path)
    (tmp_path / "recipe.yaml").write_text("method: sft\n")
    with pytest.raises(ModelError, match=f"posttrain resume {tmp_path}"):
        pt.load(tmp_path)


def test_a_folder_above_a_model_names_the_model(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "inner").symlink_to(tiny_folder)
    with pytest.raises(ModelError, match=str(tmp_path / "inner")):
        pt.load(tmp_path)
