"""Whole runs on a tiny model: what they leave behind, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from support import lines, write

from posttrain.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    MissingDependency,
    ModelError,
    RewardError,
    TemplateError,
    TrainingDiverged,
)
from posttrain.kernels import products, setup
from posttrain.recipe import parse_recipe

TASK = {"name": "arithmetic", "num_examples": 24, "num_steps": 1}


def test_sft_learns_and_leaves_a_model_that_others_load(
    run_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    rows = [{"prompt": f"{a}+{b}=", "completion": str(a + b)} for a in range(6) for b in range(6)]
    data = write(tmp_path / "rows.jsonl", rows)
    folder = run_recipe(
        method="sft",
        data=data,
        eval_data=data,
        batch_size=12,
        learning_rate=3e-3,
        num_train_epochs=20,
    )
    metrics = lines(folder / "metrics.jsonl")
    assert metrics[0]["step"] == 0 and metrics[-1]["eval_loss"] < 0.6 * metrics[0]["eval_loss"]
    names = {
        "loss",
        "grad_norm",
        "learning_rate",
        "num_tokens",
        "step_time",
        "epoch",
        "entropy",
        "mean_token_accuracy",
    }
    assert names <= metrics[-1].keys() and 0 <= metrics[-1]["mean_token_accuracy"] <= 1
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(folder / "model"),
        AutoTokenizer.from_pretrained(folder / "model"),
    )
    assert tokenizer.chat_template
    same_greedy_tokens(model, tokenizer, folder / "model")
    again = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert parse_recipe(again).batch_size == 12


def same_greedy_tokens(model: Any, tokenizer: Any, folder: Path, text: str = "Q: 3+4\nA:") -> None:
    """The saved folder, asked by transformers, writes what the engine writes."""
    from posttrain.data.templates import encode_prompt
    from posttrain.engines.torch import TorchEngine
    from posttrain.models.load import load_model
    from posttrain.types import Request, Sampling

    ids = encode_prompt(tokenizer, text)
    theirs = (
        model.eval()
        .generate(torch.tensor([ids]), max_new_tokens=12, do_sample=False)[0, len(ids) :]
        .tolist()
    )
    engine = TorchEngine(load_model(str(folder), dtype="float32"))
    (ours,) = engine.generate([Request(tuple(ids), Sampling(max_tokens=12, temperature=0.0))])
    assert ours[0].ids == theirs


def test_lora_leaves_an_adapter_for_peft(
    run_recipe: Callable[..., Path], tiny_folder: Path
) -> None:
    model = {"path": str(tiny_folder), "dtype": "float32", "lora": {"r": 4}}
    folder = run_recipe(method="sft", task=TASK, model=model, learning_rate=1e-2, max_steps=3)
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = AutoModelForCausalLM.from_pretrained(tiny_folder)
    loaded = PeftModel.from_pretrained(base, folder / "model")
    same_greedy_tokens(loaded, AutoTokenizer.from_pretrained(folder / "model"), folder / "model")


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_grpo_tells_trl_names_and_keeps_rollouts(
    run_recipe: Callable[..., Path], tiny_folder: Path, lora: bool
) -> None:
    folder = run_recipe(
        method="grpo",
        model={
            "path": str(tiny_folder),
            "dtype": "float32",
            **({"lora": {"r": 4}} if lora else {}),
        },
        task=TASK,
        rewards=[
            {"name": "length", "target": 5},
            {"name": "keyword", "words": ["a"], "weight": 0.5},
        ],
        losses=[
            {"name": "clipped"},
            {"name": "kl", "weight": 0.1},
            {"name": "entropy_bonus", "weight": 0.001},
        ],
        batch_size=3,
        num_generations=4,
        max_steps=3,
        learning_rate=1e-3,
        sampling={"max_tokens": 10},
    )
    rows = lines(folder / "metrics.jsonl")
    expected = {
        "reward",
        "reward_std",
        "frac_reward_zero_std",
        "rewards/length/mean",
        "rewards/keyword/std",
        "kl",
        "entropy",
        "completions/mean_length",
        "completions/clipped_ratio",
        "clip_ratio/region_mean",
        "grad_norm",
        "learning_rate",
        "sampling/sampling_logp_difference/mean",
        "sampling/sampling_logp_difference/max",
        "num_tokens",
    }
    assert expected <= rows[-1].keys()
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-6) and rows[-1]["kl"] > 0
    # the sampler and the trainer are one model: every step, after every update
    assert all(r["sampling/sampling_logp_difference/max"] < 1e-4 for r in rows)
    groups = lines(folder / "rollouts.jsonl")
    assert len(groups) == 9 and all(len(g["completions"]) == 4 for g in groups)
    first = groups[0]["completions"][0]
    assert first["reward"] == pytest.approx(
        first["rewards"]["length"] + 0.5 * first["rewards"]["keyword"]
    )


@pytest.mark.slow
def test_grpo_raises_its_reward(run_recipe: Callable[..., Path]) -> None:
    """From random weights, towards completions of a given length (seed 0; the first five steps
    against the last five).
    """
    folder = run_recipe(
        method="grpo",
        task=TASK,
        rewards=[{"name": "length", "target": 8}],
        batch_size=8,
        num_generations=8,
        max_steps=50,
        learning_rate=3e-3,
        sampling={"max_tokens": 24},
    )
    rewards = [r["reward"] for r in lines(folder / "metrics.jsonl")]
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.2


def test_pipeline_compares_stages(run_recipe: Callable[..., Path]) -> None:
    folder = run_recipe(
        method="pipeline",
        evaluation={
            "task": {"name": "arithmetic", "split": "test", "num_examples": 6},
            "num_samples": 4,
            "sampling": {"max_tokens": 8},
        },
        stages=[
            {"name": "base", "method": "evaluate"},
            {"name": "sft", "method": "sft", "task": TASK, "max_steps": 2},
            {
                "name": "grpo",
                "method": "grpo",
                "task": TASK,
                "max_steps": 1,
                "sampling": {"max_tokens": 8},
            },
            {
                "name": "vote",
                "method": "evaluate",
                "search": {"name": "majority_vote", "num_samples": 4},
            },
        ],
    )
    summary = json.loads((folder / "summary.json").read_text())
    assert [r["stage"] for r in summary["rows"]] == ["base", "sft", "grpo", "vote"]
    assert summary["rows"][0]["p_value"] is None and summary["rows"][1]["p_value"] is not None
    assert summary["rows"][3]["note"] == "majority vote of 4"
    from posttrain.report.html import write_report

    assert "Stages" in write_report(folder).read_text()


# -- what is refused: a clear error and nothing half written


def test_a_mistake_in_a_late_stage_is_found_before_the_first(
    run_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    first = {"name": "sft", "method": "sft", "task": TASK, "max_steps": 2}
    late = {
        "name": "grpo",
        "method": "grpo",
        "task": {**TASK, "num_steps": 9, "max_value": 1},
        "max_steps": 1,
    }
    with pytest.raises(ConfigError, match="stage 'grpo': .*num_steps"):
        run_recipe(method="pipeline", stages=[first, late])
    data = {"name": "more", "method": "sft", "data": str(tmp_path / "absent.jsonl")}
    with pytest.raises(DataError, match="stage 'more': .*absent.jsonl"):
        run_recipe(method="pipeline", stages=[first, data])
    assert not (tmp_path / "run").exists()


def refused(
    run_recipe: Callable[..., Path],
    tmp_path: Path,
    error: type[Exception],
    message: str,
    **raw: Any,
) -> None:
    with pytest.raises(error, match=message):
        run_recipe(**raw)
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").glob("*model*"))


def test_bad_rows(run_recipe: Callable[..., Path], tmp_path: Path) -> None:
    def sft(error: type[Exception], message: str, **data: Any) -> None:
        refused(run_recipe, tmp_path, error, message, method="sft", data=data)
        assert not (tmp_path / "run").exists()

    sft(DataError, "no file or folder .*rows.jsonl", path=str(tmp_path / "rows.jsonl"))
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "a", \n')
    sft(DataError, r"rows.jsonl:2: not valid JSON", path=str(path))
    sft(
        DataError,
        "row 1: column 'completion' is empty",
        path=write(path, [{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": " "}]),
    )
    sft(
        DataError,
        "row 1: column 'completion' is missing",
        path=write(path, [{"prompt": "a", "completion": "b"}, {"prompt": "a"}]),
    )
    sft(
        DataError,
        "format prompt-only .*without a completion .*grpo",
        path=write(path, [{"prompt": "a", "answer": "b"}]),
    )
    sft(
        DataError,
        "no row is left to train on",
        path=write(path, [{"prompt": "a" * 50, "completion": "b"}] * 3),
        max_length=20,
    )
    sft(
        DataError,
        "1 of 4 rows have no token left to train on",
        max_length=20,
        path=write(
            path,
            [{"prompt": "a", "completion": "b"}] * 3 + [{"prompt": "a" * 50, "completion": "b"}],
        ),
    )
    sft(DataError, "no format has the columns x", path=write(path, [{"x": 1}]))
    sft(
        ConfigError,
        "exceeds the model's context of 512",
        path=write(path, [{"prompt": "a", "completion": "b"}]),
        max_length=9999,
    )


def test_what_cannot_work_is_refused_before_anything_is_written(
    run_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    def sft(error: type[Exception], message: str, **raw: Any) -> None:
        refused(run_recipe, tmp_path, error, message, method="sft", task=TASK, **raw)
        assert not (tmp_path / "run").exists()

    sft(
        ConfigError,
        "losses: 'clipped' needs 'advantages', which this method's data do not carry",
        losses=["nll", "clipped"],
    )
    absent = {"task": {"name": "gsm8k", "path": str(tmp_path / "absent.jsonl")}}
    sft(DataError, "no file or folder .*absent.jsonl", evaluation=absent)
    sft(
        ConfigError,
        "exceed the model's context of 512",
        evaluation={"task": TASK, "sampling": {"max_tokens": 510}},
    )
    sft(ConfigError, "unknown tracker 'wandbb': did you mean 'wandb'", report_to=["wandbb"])
    sft(MissingDependency, "trackio is not installed", report_to=["trackio"])


def test_bad_models(run_recipe: Callable[..., Path], tmp_path: Path, tiny_folder: Path) -> None:
    def model(error: type[Exception], message: str, **model: Any) -> None:
        refused(run_recipe, tmp_path, error, message, method="sft", task=TASK, model=model)

    model(ModelError, "no tokenizer|no model folder", path=str(tmp_path / "none"))
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in tiny_folder.iterdir():
        (broken / file.name).write_bytes(
            file.read_bytes()[:2000] if file.suffix == ".safetensors" else file.read_bytes()
        )
    model(ModelError, "is broken", path=str(broken))
    rows = [
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}
    ]
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in tiny_folder.iterdir():
        if file.name != "chat_template.jinja":
            (bare / file.name).write_bytes(file.read_bytes())
    data = write(tmp_path / "chat.jsonl", rows)
    refused(
        run_recipe,
        tmp_path,
        TemplateError,
        "no chat template",
        method="sft",
        data=data,
        model={"path": str(bare)},
    )
    refused(
        run_recipe,
        tmp_path,
        ConfigError,
        "missing key 'model'",
        method="sft",
        task=TASK,
        model=None,
    )


def test_a_model_without_pad_token_trains(
    run_recipe: Callable[..., Path], tmp_path: Path, tiny_folder: Path
) -> None:
    folder = tmp_path / "nopad"
    folder.mkdir()
    for file in tiny_folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("pad_token")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    run_recipe(method="sft", task=TASK, model={"path": str(folder)}, max_steps=1)
    run_recipe(
        method="grpo",
        task=TASK,
        model={"path": str(folder)},
        max_steps=1,
        output=str(tmp_path / "g"),
        sampling={"max_tokens": 4},
    )


def test_prompts_that_do_not_fit(run_recipe: Callable[..., Path], tmp_path: Path) -> None:
    rows = [{"prompt": "a" * 600, "answer": "1"}]
    task = {"name": "jsonl", "path": write(tmp_path / "rows.jsonl", rows)}
    refused(
        run_recipe,
        tmp_path,
        DataError,
        "no room for a completion in the model's context of 512 tokens .the longest, 0, has 601",
        method="grpo",
        task=task,
    )
    refused(
        run_recipe,
        tmp_path,
        ConfigError,
        "exceed the model's context of 512 for .*; set it to at most 500",
        method="grpo",
        task=TASK,
        sampling={"max_tokens": 510},
    )
    refused(
        run_recipe,
        tmp_path,
        ConfigError,
        "num_generations: 1 gives no group",
        method="grpo",
        task=TASK,
        num_generations=1,
    )


def plugin(tmp_path: Path, body: str) -> list[str]:
    (tmp_path / "mine.py").write_text(
        "from posttrain.registry import rewards\n\n@rewards.register\ndef mine(completions):\n   "
        f" '''Mine.'''\n{body}\n"
    )
    return ["mine.py"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("    raise KeyError('oh')", "self-test of reward 'mine': KeyError: 'oh'"),
        (
            "    return [float('nan')] * len(completions)",
            "self-test of reward 'mine': returned nan",
        ),
        ("    return [1.0]", "returned 1 for 2 completions"),
        ("    return ['x'] * len(completions)", "which is not a number"),
    ],
)
def test_bad_rewards_are_found_before_the_first_step(
    run_recipe: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    body: str,
    message: str,
) -> None:
    forget_plugins(monkeypatch)
    refused(
        run_recipe,
        tmp_path,
        RewardError,
        message,
        method="grpo",
        task=TASK,
        rewards=["mine"],
        plugins=plugin(tmp_path, body),
    )
    assert not (tmp_path / "run").exists()


def forget_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    from posttrain import registry

    monkeypatch.setattr(registry.rewards, "_plugins", [])
    monkeypatch.setattr(
        registry.rewards,
        "_functions",
        {k: v for k, v in registry.rewards._functions.items() if k != "mine"},
    )


def test_a_reward_that_fails_now_and_then_is_counted(
    run_recipe: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_plugins(monkeypatch)
    body = (
        "    return [float('inf') if i % 3 == 1 and len(completions) > 2 else 1.0 * i for i in "
        "range(len(completions))]"
    )
    folder = run_recipe(
        method="grpo",
        task=TASK,
        rewards=["mine"],
        plugins=plugin(tmp_path, body),
        batch_size=2,
        num_generations=3,
        max_steps=2,
        sampling={"max_tokens": 4},
    )
    rows = lines(folder / "metrics.jsonl")
    assert [r["rewards/errors"] for r in rows] == [2, 2]
    completion = lines(folder / "rollouts.jsonl")[0]["completions"][1]
    assert (
        completion["reward"] is None
        and completion["advantage"] == 0
        and "mine: returned inf" in completion["error"]
    )


def test_a_reward_does_not_run_among_switches_that_are_not_its_own(
    run_recipe: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch answers this question only where nobody has set the newer switch, as a step's
    products do on some processors.
    """
    monkeypatch.setattr(products, "_family", lambda: 26)
    setup()
    forget_plugins(monkeypatch)
    body = (
        "    import torch\n    assert torch.get_float32_matmul_precision()\n    return "
        "[float(len(c)) for c in completions]"
    )
    folder = run_recipe(
        method="grpo",
        task=TASK,
        rewards=["mine"],
        plugins=plugin(tmp_path, body),
        batch_size=2,
        num_generations=3,
        max_steps=1,
        sampling={"max_tokens": 4},
    )
    assert lines(folder / "metrics.jsonl")[0]["rewards/errors"] == 0
    with products.fast_products(), pytest.raises(RuntimeError, match="precision"):
        torch.get_float32_matmul_precision()


def test_an_output_folder_with_a_run_is_refused(run_recipe: Callable[..., Path]) -> None:
    run_recipe(method="sft", task=TASK, max_steps=1)
    with pytest.raises(
        ConfigError, match="already holds a run. Go on with it by `posttrain resume"
    ):
        run_recipe(method="sft", task=TASK, max_steps=1)


def test_a_diverging_run_names_rows_and_checkpoint(
    run_recipe: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from posttrain.training.objective import Objective

    real = Objective.__call__
    calls = []

    def diverging(self: Objective, *args: Any, **settings: Any) -> Any:
        calls.append(1)
        loss, metrics = real(self, *args, **settings)
        return (loss * float("nan") if len(calls) == 2 else loss), metrics

    monkeypatch.setattr(Objective, "__call__", diverging)
    with pytest.raises(
        TrainingDiverged, match=r"Rows of the batch: arithmetic-train-0-\d+.*checkpoint-1"
    ):
        run_recipe(method="sft", task=TASK, max_steps=3, save_every=1)
    assert (tmp_path / "run" / "checkpoint-1").is_dir()


def test_a_full_disk_leaves_the_last_checkpoint(
    run_recipe: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from posttrain.models.language_model import LanguageModel

    real = LanguageModel.save
    calls = []

    def save(self: LanguageModel, folder: Path) -> None:
        calls.append(folder)
        if len(calls) == 2:
            (Path(folder) / "part").write_text("x")
            raise OSError(28, "No space left on device")
        real(self, folder)

    monkeypatch.setattr(LanguageModel, "save", save)
    with pytest.raises(CheckpointError, match="could not write .*checkpoint-2"):
        run_recipe(method="sft", task=TASK, max_steps=3, save_every=1)
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "checkpoint-1",
        "metrics.jsonl",
        "recipe.yaml",
    ]
