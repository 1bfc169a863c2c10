"""One sequence of trainings under several methods against forgetting, over seeds."""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from posttrain.component import ComponentLike
from posttrain.errors import ConfigError
from posttrain.evaluation.sequences import Sequences
from posttrain.loops.continual import FILE, Continual, Stages, SuiteLike, continual, retention_of
from posttrain.methods.measurement import SamplingLike
from posttrain.methods.objects import ModelLike
from posttrain.models.forest_model import ForestModel
from posttrain.registry import methods
from posttrain.report.sequences import write_heat_maps
from posttrain.terminal import write, write_rule


@dataclass(frozen=True, slots=True)
class SequenceRecipe:
    """A sequence as a recipe writes it; `posttrain.runs.sequences` makes its plans and runs it.

    Attributes:
        options: keyword arguments of `continual_table`.
        others: tasks of abilities that no stage trains, as a recipe writes them.
    """

    options: dict[str, Any]
    others: dict[str, dict[str, Any]]


@methods.register
def continual_learning(
    *,
    stages: list[dict[str, Any]],
    retentions: list[Any] | None = None,
    others: dict[str, dict[str, Any]] | None = None,
    num_seeds: int = 3,
    num_examples: int = 200,
    keep_models: bool = False,
) -> SequenceRecipe:
    """Train one stage after the other under several methods against forgetting, over seeds.

    Each stage is a recipe of a training with a name. Its `evaluation` is the held-out task that
    the model is measured on after every stage; a stage of a task without one is measured on its
    own problems. Every method runs the whole sequence from the same model with the same seeds. The
    table has AP, BWT, FWT, forgetting, and with the method `joint` intransigence, with intervals
    over seeds; differences to the first method are paired. It is written to sequences.txt,
    sequences.json and report.html, with a heat map of each method.
      posttrain continual RECIPE         posttrain resume RUN

    Args:
        stages: recipes with a name each; their methods give plans: sft, dpo, grpo, ppo, ...
        retentions: methods against forgetting, by name or as {name: ewc, weight: 100}; the others
            are compared with the first. None is [naive, replay].
        others: tasks of abilities that no stage trains, by name, such as
            {refusals: {name: jsonl, path: refusals.jsonl}}.
        num_seeds: runs of each method, from the recipe's seed on.
        num_examples: problems of each suite that is no `evaluation` of its own.
        keep_models: keep the runs of all stages, and not only the model in the end.
    """
    if not stages:
        raise ConfigError("stages: there is none; give a recipe with a name for at least one")
    methods_used = ["naive", "replay"] if retentions is None else retentions
    labels_of(methods_used)
    if num_seeds < 1 or num_examples < 1:
        raise ConfigError(
            f"num_seeds: {num_seeds} and num_examples: {num_examples} must be at least 1"
        )
    options = {
        "retentions": methods_used,
        "num_seeds": num_seeds,
        "num_examples": num_examples,
        "keep_models": keep_models,
    }
    return SequenceRecipe(options, others or {})


def continual_table(
    model: ModelLike,
    stages: Stages,
    *,
    retentions: Sequence[ComponentLike] = ("naive", "replay"),
    num_seeds: int = 3,
    suites: Mapping[str, SuiteLike] | None = None,
    others: Mapping[str, SuiteLike] | None = None,
    of_stage: Mapping[str, Mapping[str, Any]] | None = None,
    steps: int | None = None,
    num_examples: int = 200,
    sampling: SamplingLike = None,
    evaluation_seed: int = 1234,
    seed: int = 0,
    output: str | Path | None = None,
    resume: bool = False,
    keep_models: bool = False,
    console: Console | None = None,
    **settings: Any,
) -> Sequences:
    """Run a sequence of trainings under several methods against forgetting, over seeds.

        stages = {"sums": pt.sft(task=sums), "sorting": pt.sft(task=sorting)}
        print(pt.continual_table("embedded", stages, retentions=["naive", "ewc"], steps=50))

    Args:
        model: what every run starts from; a loaded one is copied and stays as it is.
        stages: plans by name, of any method.
        retentions: methods against forgetting; the others are compared with the first.
        num_seeds: runs of each, from `seed` on.
        suites, others, of_stage, steps, num_examples, sampling, evaluation_seed, settings: as
            `continual` takes them.
        output: a folder for the table and all runs; None writes nothing.
        resume: go on with what `output` holds, exactly.
        keep_models: keep the runs of all stages, and not only the model in the end.
        console: where progress is shown.

    Raises:
        ConfigError, DataError: found before any weights are loaded.
    """
    labels = labels_of(retentions)
    if num_seeds < 1:
        raise ConfigError(f"num_seeds: {num_seeds} runs of each method; it must be at least 1")
    console = console or Console()
    folder = None if output is None else Path(output)
    names = [name for name, _ in (stages.items() if isinstance(stages, Mapping) else stages)]
    seeds = list(range(seed, seed + num_seeds))
    options: dict[str, Any] = {
        "suites": suites,
        "others": others,
        "of_stage": of_stage,
        "steps": steps,
        "num_examples": num_examples,
        "sampling": sampling,
        "evaluation_seed": evaluation_seed,
        "console": console,
        **settings,
    }
    runs: dict[str, list[Continual]] = {label: [] for label in labels}
    for number in seeds:
        for label, retention in zip(labels, retentions, strict=True):
            place = None if folder is None else folder / folder_of(label) / f"seed-{number}"
            held = None if place is None else _held(place)
            if held is None:
                write_rule(console, f"{label}, seed {number}")
                started = resume and place is not None and place.is_dir()
                options |= {"retention": retention, "seed": number * 1000, "resume": started}
                held = continual(_fresh(model), stages, output=place, **options)
                held.model = None  # so that memory does not grow with the runs
            runs[label].append(held)
            if place is not None and not keep_models:
                _drop_runs(place, names)
    result = _table(_name(model), names, seeds, runs)
    if folder is not None:
        result.save(folder)
        write_heat_maps(result.values(), folder)
    write(console, str(result))
    return result


def _fresh(model: ModelLike) -> ModelLike:
    """A copy of a loaded model; what is only named is loaded anew by each run."""
    return copy.deepcopy(model) if isinstance(model, ForestModel) else model


def _table(
    model: str, names: list[str], seeds: list[int], runs: Mapping[str, list[Continual]]
) -> Sequences:
    """The runs of all methods as one table."""
    scores = {label: [run.scores.tolist() for run in some] for label, some in runs.items()}
    others = {
        label: {suite: [run.others[suite] for run in some] for suite in some[0].others}
        for label, some in runs.items()
    }
    return Sequences(model, names, seeds, scores, others)


def labels_of(retentions: Sequence[ComponentLike]) -> list[str]:
    """The methods' names with settings.

    Raises:
        ConfigError: there is none, one does not exist, or two are the same.
    """
    labels = [retention_of(retention)[1] for retention in retentions]
    if not labels:
        raise ConfigError("retentions: there is none; give at least one, such as naive")
    for label in labels:
        if labels.count(label) > 1:
            raise ConfigError(f"retentions: {label!r} is there twice; leave one out")
    return labels


def folder_of(label: str) -> str:
    """The name of a method's folder.

    >>> folder_of("ewc(weight=100.0, decay=None)")
    'ewc-weight=100.0-decay=None'
    """
    return re.sub(r"[^\w.=-]+", "-", label).strip("-")


def _held(place: Path) -> Continual | None:
    """A sequence that is finished, without its model."""
    file = place / FILE
    if not file.is_file() or not (place / "model").is_dir():
        return None
    values = json.loads(file.read_text(encoding="utf-8"))
    scores = np.array(values["scores"])
    return Continual(values["names"], values["retention"], scores, values["others"])


def _drop_runs(place: Path, names: Sequence[str]) -> None:
    """Remove the runs and states of a finished sequence; what was measured stays."""
    for name in names:
        for part in ("run", "state"):
            shutil.rmtree(place / name / part, ignore_errors=True)


def _name(model: Any) -> str:
    if isinstance(model, str | Path):
        return str(model)
    return str(getattr(model, "name", None) or getattr(model, "path", None) or "a loaded model")
