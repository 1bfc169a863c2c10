"""From the arguments of a command to a recipe."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from support import resolved

from posttrain.cli import main
from posttrain.cli.arguments import own_recipe, recipe_of
from posttrain.errors import ConfigError


def test_names_of_trl_work_beside_flags(
    rows: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = "max_length=128 lora_r=8 lora_alpha=4 gradient_checkpointing=true"
    recipe = resolved(f"sft --model {tiny_folder} --data rows.jsonl {names}", capsys)
    assert recipe["data"]["max_length"] == 128
    assert recipe["model"]["lora"]["r"] == 8 and recipe["model"]["lora"]["alpha"] == 4.0
    assert recipe["model"]["gradient_checkpointing"] is True
    assert recipe["model"]["path"] == str(tiny_folder.resolve())


@pytest.mark.parametrize("command", ["check", "preview"])
def test_check_and_preview_take_the_arguments_of_a_method(
    command: str, rows: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = f"sft --model {tiny_folder} --data rows.jsonl max_steps=1"
    assert main([command, *arguments.split()]) == 0
    assert main([*arguments.split(), f"--{command}"]) == 0
    assert not Path("runs").exists()
    assert main(["check", "sft", "--data", "rows.jsonl"]) == 2
    assert "--model" in capsys.readouterr().err


def test_a_command_of_a_method_takes_a_recipe(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("method: sft\nmodel: embedded\ndata: rows.jsonl\noutput: runs/a\n")
    options = argparse.Namespace(recipe=str(file), overrides=["batch_size=3"])
    recipe = own_recipe("sft", options)
    assert recipe.method == "sft" and recipe.batch_size == 3
    with pytest.raises(ConfigError):
        own_recipe("dpo", options)
    with pytest.raises(ConfigError):
        own_recipe("sft", argparse.Namespace(recipe=str(file), overrides=[], model="m"))


def test_eval_can_be_checked(tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = f"--model {tiny_folder} --task sorting num_examples=3 temperature=0 max_tokens=4"
    assert main(["eval", *arguments.split(), "--check"]) == 0
    assert "3 of" in capsys.readouterr().out
    assert main(["check", "eval", *arguments.split()]) == 0


def test_a_run_stands_for_its_model(
    rows: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path("run")
    run.mkdir()
    (run / "recipe.yaml").write_text("method: sft\n")
    assert main(["eval", "--model", "run", "--task", "sorting", "--check"]) == 1
    assert "without a model" in capsys.readouterr().err
    (run / "model").symlink_to(tiny_folder)
    assert main(["eval", "--model", "run", "--task", "sorting", "max_tokens=4", "--check"]) == 0
    assert "run/model" in capsys.readouterr().err


def options(recipe: str, *overrides: str, **flags: str) -> argparse.Namespace:
    """The options of a command."""
    every = {"model": None, "data": None, "task": None, "output": None, **flags}
    return argparse.Namespace(recipe=recipe, overrides=list(overrides), **every)


def test_data_of_a_method_without_data_are_prompts() -> None:
    sft = recipe_of(options("sft", model="m", data="rows.jsonl"))
    assert sft.data is not None and sft.data.path == "rows.jsonl" and sft.output == "runs/sft"
    grpo = recipe_of(options("grpo", "seed=4", model="m", data="prompts.jsonl", output="o"))
    assert grpo.task is not None
    assert (grpo.task.name, grpo.task.settings) == ("jsonl", {"path": "prompts.jsonl"})
    assert (grpo.seed, grpo.output) == (4, "o")


def test_changes_of_eval_need_no_section() -> None:
    recipe = recipe_of(
        options(
            "eval",
            "num_samples=3",
            "max_tokens=7",
            "seed=2",
            "task.num_steps=1",
            model="m",
            task="arithmetic",
        )
    )
    evaluation = recipe.evaluation
    assert evaluation is not None and evaluation.task.settings == {"num_steps": 1}
    assert (evaluation.num_samples, evaluation.sampling.max_tokens, evaluation.seed) == (3, 7, 2)


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        (options("sft", data="d"), "--model"),
        (options("sft", model="m"), "--data FILE or --task NAME"),
        (options("dpo", model="m"), "--data FILE"),
        (options("grpo", model="m"), "--task NAME, or --data FILE with prompts"),
        (options("eval", task="sorting"), "--model"),
        (options("eval", model="m"), "--task"),
        (options("recipe.yaml", model="m"), "--model"),
    ],
)
def test_what_is_missing_or_misplaced_is_named(given: argparse.Namespace, missing: str) -> None:
    with pytest.raises(ConfigError, match=missing):
        recipe_of(given)
