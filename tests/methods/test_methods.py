"""Whole runs on a tiny model: what they leave behind, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
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

TASK = {"name": "arithmetic", "num_examples": 24, "num_steps": 1}


# -- what is refused: a clear error and nothing half written


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

    sft(DataError, "rows.jsonl", path=str(tmp_path / "rows.jsonl"))
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "a", \n')
    sft(DataError, r"rows.jsonl:2", path=str(path))
    sft(
        DataError,
        "row 1: .*'completion'.*empty",
        path=write(path, [{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": " "}]),
    )
    sft(
        DataError,
        "row 1: .*'completion'.*missing",
        path=write(path, [{"prompt": "a", "completion": "b"}, {"prompt": "a"}]),
    )
    sft(
        DataError,
        "prompt-only.*grpo",
        path=write(path, [{"prompt": "a", "answer": "b"}]),
    )
    sft(
        DataError,
        "no row",
        path=write(path, [{"prompt": "a" * 50, "completion": "b"}] * 3),
        max_length=20,
    )
    sft(
        DataError,
        "1 of 4 rows",
        max_length=20,
        path=write(
            path,
            [{"prompt": "a", "completion": "b"}] * 3 + [{"prompt": "a" * 50, "completion": "b"}],
        ),
    )
    sft(DataError, "columns x", path=write(path, [{"x": 1}]))
    sft(
        ConfigError,
        "context of 512",
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
        "losses: 'clipped'.*'advantages'",
        losses=["nll", "clipped"],
    )
    absent = {"task": {"name": "gsm8k", "path": str(tmp_path / "absent.jsonl")}}
    sft(DataError, "absent.jsonl", evaluation=absent)
    sft(
        ConfigError,
        "context of 512",
        evaluation={"task": TASK, "sampling": {"max_tokens": 510}},
    )
    sft(ConfigError, "'wandbb'.*'wandb'", report_to=["wandbb"])
    sft(MissingDependency, "trackio", report_to=["trackio"])


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


def plugin(tmp_path: Path, body: str) -> list[str]:
    (tmp_path / "mine.py").write_text(
        "from posttrain.registry import rewards\n\n@rewards.register\ndef mine(completions):\n   "
        f" '''Mine.'''\n{body}\n"
    )
    return ["mine.py"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("    raise KeyError('oh')", "'mine'.*KeyError: 'oh'"),
        (
            "    return [float('nan')] * len(completions)",
            "'mine'.*nan",
        ),
        ("    return [1.0]", "'mine'.*1 for 2"),
        ("    return ['x'] * len(completions)", "'mine'.*'x'"),
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
    with pytest.raises(ConfigError, match="posttrain resume"):
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
    with pytest.raises(TrainingDiverged, match=r"arithmetic-train-0-\d+.*checkpoint-1"):
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
