"""`posttrain forgetting RUN...`: what trainings made their models forget."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from posttrain import registry
from posttrain.cli.arguments import component_named
from posttrain.cli.libraries import prepare_libraries
from posttrain.cli.parser import Command
from posttrain.cli.runs import notice, started_in_python
from posttrain.config import Component, DataConfig, ModelConfig
from posttrain.errors import ConfigError
from posttrain.overrides import apply_overrides
from posttrain.recipe import load_recipe
from posttrain.recipe_paths import model_of
from posttrain.terminal import echo, visible

_OWN = {"num_examples": int, "num_samples": int, "num_prompts": int, "seed": int}


def command() -> Command:
    """The command."""
    return Command(
        "evaluate",
        "what a training made a model forget, item by item, with intervals",
        forgetting,
        arguments,
        ("run+",),
        changes=True,
    )


def arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of the command."""
    parser.usage = (
        "posttrain forgetting RUN [RUN ...] --old TASK ... [--rows FILE ...] [--new TASK]\n"
        "                     [--before MODEL] [key=value ...]"
    )
    parser.epilog = (
        "changes: num_examples=, num_samples=, num_prompts=, seed=, temperature=, max_tokens=. "
        "A task is NAME or NAME:key=value,...; of several runs the Pareto plot of new against old "
        "ability is drawn too."
    )
    parser.add_argument("--old", action="append", default=[], help="a task; may be repeated")
    parser.add_argument(
        "--rows", action="append", default=[], help="a file of text or rows; may be repeated"
    )
    parser.add_argument("--new", help="what was trained for (the task of the run)")
    parser.add_argument("--before", help="the model of the start (the model of the run's recipe)")
    parser.add_argument("--output", help="folder of the plot of several runs (runs/forgetting)")


def forgetting(options: argparse.Namespace) -> int:
    """Measure each run, print its ledger and write it into its folder.

    Raises:
        ConfigError: no old abilities, a folder that holds no trained model, or a wrong key.
    """
    if not options.old and not options.rows:
        raise ConfigError(
            "forgetting needs --old TASK or --rows FILE: what the model could do before; "
            "`posttrain ls tasks` lists tasks"
        )
    folders = [Path(run).expanduser() for run in options.run]
    pairs = [(_model_before(folder, options.before), _model_after(folder)) for folder in folders]
    more: dict[str, Any] = {
        "old": [task_named(text) for text in options.old],
        "rows": _rows(options.rows),
        **_settings(options.overrides),
    }
    prepare_libraries(names=[place.path for pair in pairs for place in pair])
    from rich.console import Console

    from posttrain.methods.forgetting import forgetting as measure

    ledgers = {}
    for folder, (before, after) in zip(folders, pairs, strict=True):
        new = _new_task(folder, options.new)
        console = Console(stderr=True)
        ledger = measure(before, after, new=new, console=console, output=folder, **more)
        ledgers[folder.resolve().name] = ledger
        echo(f"{visible(folder)}\n{ledger}\n")
        notice(f"wrote {folder}/forgetting.json; `posttrain report {folder}` shows it")
    if len(ledgers) > 1:
        from posttrain.report.forgetting import write_pareto

        abilities = {name: ledger.abilities() for name, ledger in ledgers.items()}
        place = write_pareto(abilities, Path(options.output or "runs/forgetting"))
        notice(f"wrote {place}")
    return 0


def task_named(text: str) -> Component:
    """A task from a text: "arithmetic:num_steps=2,split=test".

    Raises:
        ConfigError: no such task, or no setting behind the colon.
    """
    return component_named(text, registry.tasks)


def _rows(files: list[str]) -> dict[str, DataConfig]:
    """Rows by the name of their file."""
    rows = {Path(file).stem: DataConfig(file) for file in files}
    if len(rows) < len(files):
        raise ConfigError("--rows: two files have one name; rename one of them")
    return rows


def _model_before(folder: Path, named: str | None) -> ModelConfig:
    """The model that a run started from, without the adapters that it added."""
    if named is not None:
        return ModelConfig(named)
    recipe = _recipe(folder)
    if recipe is None or recipe.model is None:
        raise ConfigError(
            f"{folder} does not say what it started from (no recipe.yaml with a model); give "
            "--before MODEL"
        )
    return dataclasses.replace(recipe.model, lora=None, adapter=None, quantization="none")


def _model_after(folder: Path) -> ModelConfig:
    if not folder.is_dir():
        raise ConfigError(f"{folder}: there is no such folder; give the folder of a run")
    return ModelConfig(model_of(str(folder), notice))


def _new_task(folder: Path, named: str | None) -> Component | None:
    """The task of a run, where it trained on one."""
    if named is not None:
        return task_named(named)
    recipe = _recipe(folder)
    return recipe.task if recipe is not None else None


def _recipe(folder: Path) -> Any:
    file = folder / "recipe.yaml"
    return load_recipe(file) if file.is_file() and not started_in_python(folder) else None


def _settings(overrides: list[str]) -> dict[str, Any]:
    """The keyword arguments of the call from `key=value` texts."""
    from posttrain.cli.writer import split_settings

    own: dict[str, Any] = {}
    rest = []
    for text in overrides:
        key = text.partition("=")[0].strip()
        if key in _OWN:
            own = apply_overrides(own, [text])
        else:
            rest.append(text)
    _, own["sampling"] = split_settings("embedded", rest)
    return own
