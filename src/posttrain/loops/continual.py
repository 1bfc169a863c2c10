"""Continual learning: a sequence of trainings, measured on every task after each.

The loop is a `for` statement over `fit`. A retention method (`posttrain.retentions`) changes what
each stage learns from, how its gradient is formed, or the weights that it leaves.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from safetensors.torch import load_file, save_file

from posttrain import registry
from posttrain.component import Component, ComponentLike
from posttrain.config import EvaluationConfig, Limits
from posttrain.data.account import Account
from posttrain.errors import CheckpointError, ConfigError
from posttrain.evaluation import continual as measures
from posttrain.evaluation.outcomes import Evaluation, read_evaluation
from posttrain.files import write_text_whole, written_whole
from posttrain.methods.fit import fit
from posttrain.methods.measurement import Measuring, SamplingLike, measuring_of
from posttrain.methods.objects import ModelLike, TaskLike, task_of
from posttrain.models.language_model import LanguageModel
from posttrain.models.loaded import trained_weights
from posttrain.models.spec import ModelSpec, model_spec
from posttrain.retentions.base import Retention, Stage
from posttrain.terminal import write, write_rule
from posttrain.training.plan import Plan

FILE = "continual.json"


@dataclass(slots=True)
class Continual:
    """The result of a sequence of trainings.

    Attributes:
        names: of the stages, in order. retention: what was done against forgetting.
        scores: accuracy [N + 1, N], row 0 before the first stage, row i after stage i.
        others: accuracy on further suites by name, [N + 1] each: abilities that no stage trains.
        model: as the last stage has left it; None where it was read from a file.
    """

    names: list[str]
    retention: str
    scores: np.ndarray
    others: dict[str, list[float]] = field(default_factory=dict)
    model: LanguageModel | None = None

    def metrics(self) -> dict[str, float]:
        """AP, BWT, FWT and forgetting after the last stage, and the change of further suites.

        The formulas stand in `posttrain.evaluation.continual`.
        """
        values = {"AP": measures.average_performance(self.scores)}
        if len(self.names) > 1:
            values["BWT"] = measures.backward_transfer(self.scores)
            values["FWT"] = measures.forward_transfer(self.scores)
            values["forgetting"] = measures.forgetting_measure(self.scores)
        if self.others:
            first = {name: row[0] for name, row in self.others.items()}
            last = {name: row[-1] for name, row in self.others.items()}
            values["general_ability_delta"] = measures.ability_delta(first, last)
        return values

    def __str__(self) -> str:
        names = [*self.names, *self.others]
        columns = np.column_stack([self.scores, *self.others.values()])
        width = max(12, *(len(name) for name in names))
        head = "after".ljust(width) + "".join(name.rjust(width + 2) for name in names)
        lines = [f"retention  {self.retention}", "", head]
        for label, row in zip(["start", *self.names], columns, strict=True):
            cells = "".join(f"{x:.1%}".rjust(width + 2) for x in row)
            lines.append(label.ljust(width) + cells)
        numbers = ", ".join(f"{name} {value:+.1%}" for name, value in self.metrics().items())
        return "\n".join([*lines, "", numbers])

    def save(self, path: str | Path) -> Path:
        """Write the matrix and its measures as JSON, whole or not at all.

        Args:
            path: a file, or a folder for continual.json.
        """
        file = Path(path)
        file = file / FILE if file.is_dir() else file
        values = {
            "names": self.names,
            "retention": self.retention,
            "scores": self.scores.tolist(),
            "others": self.others,
            "metrics": self.metrics(),
        }
        write_text_whole(file, json.dumps(values, indent=1))
        return file


Stages = Mapping[str, Plan] | Sequence[tuple[str, Plan]]
"""Plans by the name of what is learnt, in order."""

SuiteLike = TaskLike | EvaluationConfig
"""What a model is measured on after each stage."""


def continual(
    model: ModelLike,
    stages: Stages,
    *,
    retention: ComponentLike | Retention = "naive",
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
    console: Console | None = None,
    **settings: Any,
) -> Continual:
    """Train a model on one plan after the other, and measure every task after each.

        stages = {"sums": pt.sft(task=sums), "sorting": pt.sft(task=sorting)}
        print(pt.continual("embedded", stages, retention="ewc", suites=tests, steps=50))

    Args:
        model: is trained in place if it is loaded.
        stages: plans by name, of any method.
        retention: what is done against forgetting, by name or as {name: ewc, weight: 100}.
        suites: held-out task of each stage, by the stage's name, or an evaluation with settings of
            its own; a stage of a task that has none here is measured on its own task.
        others: tasks of abilities that no stage trains, such as instructions or refusals.
        of_stage: settings of single stages' `fit`, by name, `steps` among them, where they differ.
        steps: of each stage; None takes as many as the plans' epochs need.
        num_examples: the first so many problems of each suite.
        sampling: of the completions; None is temperature 1 with the task's length.
        evaluation_seed: of the completions, the same after every stage.
        seed: of order, sampling and dropout.
        output: a folder with a folder for each stage; None writes nothing.
        resume: go on with the sequence that `output` holds, exactly.
        settings: of every `fit`.

    Raises:
        ConfigError, DataError: found before any weights are loaded.
    """
    named = list(stages.items() if isinstance(stages, Mapping) else stages)
    _check(named, {**(suites or {}), **(of_stage or {})}, others or {})
    method, label = retention_of(retention)
    spec = model_spec(model, seed=seed)
    options: dict[str, Any] = {
        "num_examples": num_examples,
        "sampling": sampling,
        "seed": evaluation_seed,
        "console": console,
    }
    tests = {name: _measuring(spec, _suite(name, plan, suites), options) for name, plan in named}
    tests |= {name: _measuring(spec, task, options) for name, task in (others or {}).items()}
    own = {name: dict((of_stage or {}).get(name, {})) for name, _ in named}
    run = _Sequence(spec, named, method, label, tests, output, resume, console or Console(), seed)
    return run.result(steps, {name: {**settings, **own[name]} for name in own})


def retention_of(retention: ComponentLike | Retention) -> tuple[Retention, str]:
    """A retention method and its name with settings.

    Raises:
        ConfigError: there is no such method, or a setting is wrong.
    """
    if isinstance(retention, Retention):
        return retention, type(retention).__name__
    if isinstance(retention, Mapping) and isinstance(retention.get("name"), str):
        # Its weight is a setting of the method; no sum is weighted by it, as one of losses is.
        settings = {str(k): v for k, v in retention.items() if k != "name"}
        item = Component(retention["name"], settings)
    else:
        item = Component.of(retention)
    made = registry.retentions.bind_of(item)()
    if not isinstance(made, Retention):
        raise ConfigError(
            f"retention {item.name!r} returned {type(made).__name__}; it must return a Retention"
        )
    text = ", ".join(f"{k}={v}" for k, v in item.settings.items())
    return made, f"{item.name}({text})" if text else item.name


def _check(
    named: Sequence[tuple[str, Plan]], suites: Mapping[str, Any], others: Mapping[str, Any]
) -> None:
    names = [name for name, _ in named]
    if not names:
        raise ConfigError("continual: there is no stage; give a plan for each of at least one")
    for name in (*names, *others):
        if [*names, *others].count(name) > 1:
            raise ConfigError(f"continual: two stages or suites are called {name!r}; rename one")
        if not name or "/" in name or name.startswith("."):
            raise ConfigError(
                f"continual: {name!r} cannot name a folder; use letters, digits, - and _"
            )
    for name in suites:
        if name not in names:
            raise ConfigError(
                f"continual: suites or of_stage names {name!r}, which is no stage; stages: "
                f"{', '.join(names)}"
            )
    for name, plan in named:
        if not isinstance(plan, Plan):
            raise ConfigError(
                f"continual: stage {name!r} is {type(plan).__name__}; a method makes a plan, such "
                "as pt.sft(rows)"
            )


def _measuring(spec: ModelSpec, suite: SuiteLike, options: dict[str, Any]) -> Measuring:
    """A suite, prepared; options: of those that are tasks."""
    if isinstance(suite, EvaluationConfig):
        console = options["console"]
        return Measuring(spec, suite, limits=Limits(), account=Account(), console=console)
    return measuring_of(spec, suite, **options)


def _suite(name: str, plan: Plan, suites: Mapping[str, SuiteLike] | None) -> SuiteLike:
    if suites is not None and name in suites:
        return suites[name]
    task = plan.settings.get("task")
    if task is None:
        raise ConfigError(
            f"continual: stage {name!r} trains on rows and has no suite to be measured on; give "
            f"suites={{{name!r}: task}}"
        )
    return task_of(task)


class _Sequence:
    """The stages with their folders."""

    def __init__(
        self,
        spec: ModelSpec,
        stages: Sequence[tuple[str, Plan]],
        retention: Retention,
        label: str,
        suites: Mapping[str, Measuring],
        output: str | Path | None,
        resume: bool,
        console: Console,
        seed: int,
    ) -> None:
        self.spec, self.stages, self.retention, self.label = spec, stages, retention, label
        self.suites, self.console, self.seed = suites, console, seed
        self.folder = None if output is None else Path(output)
        if self.folder is None and resume:
            raise ConfigError("resume: it needs output, the folder of the sequence")
        if self.folder is not None and self.folder.exists() and any(self.folder.iterdir()):
            if not resume:
                raise ConfigError(
                    f"{self.folder} is not empty; choose another output, or resume=True to go on"
                )
            self._refuse_other(self.folder)

    def _record(self) -> dict[str, Any]:
        return {"stages": [name for name, _ in self.stages], "retention": self.label}

    def _refuse_other(self, folder: Path) -> None:
        file = folder / "sequence.json"
        held = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
        if held != self._record():
            raise CheckpointError(
                f"{folder} holds another sequence ({held}); go on with the same stages and "
                "retention, or choose another output"
            )

    def result(self, steps: int | None, settings: dict[str, dict[str, Any]]) -> Continual:
        """Train and measure all stages, or those that are left. settings: of `fit`, by stage."""
        model = self.spec.load()
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text_whole(self.folder / "sequence.json", json.dumps(self._record()))
        start = {name: value.clone() for name, value in trained_weights(model).items()}
        rows = [self._measured(model, "start")]
        earlier: list[Plan] = []
        for number, (name, plan) in enumerate(self.stages):
            write_rule(self.console, f"stage {number + 1} of {len(self.stages)}: {name}")
            stage = Stage(number, name, plan, model, tuple(earlier), self.seed, start)
            if not self._restored(stage):
                self._train(stage, {"steps": steps, **settings[name]})
            rows.append(self._measured(model, name))
            earlier.append(plan)
        result = self._table(rows, model)
        if self.folder is not None:
            result.save(self.folder)
            with written_whole(self.folder / "model") as place:
                self.retention.save(model, place)
        return result

    def _train(self, stage: Stage, settings: dict[str, Any]) -> None:
        plan = self.retention.begin(stage)
        place = None if self.folder is None else self.folder / stage.name / "run"
        begun = place is not None and (place / "recipe.yaml").is_file()
        fit(
            stage.model,
            plan,
            output=place,
            resume=begun,
            seed=self.seed + stage.number,
            console=self.console,
            **settings,
        )
        self.retention.end(stage)
        if self.folder is None:
            return
        with written_whole(self.folder / stage.name / "state") as state:
            state.mkdir(parents=True, exist_ok=True)
            tensors = {k: v.contiguous() for k, v in self.retention.state().items()}
            save_file(tensors, state / "retention.safetensors")
            weights = {k: v.contiguous() for k, v in trained_weights(stage.model).items()}
            save_file(weights, state / "weights.safetensors")

    def _restored(self, stage: Stage) -> bool:
        """Whether the stage is done; the model and the method then are as it left them."""
        if self.folder is None or not (self.folder / stage.name / "state").is_dir():
            return False
        state = self.folder / stage.name / "state"
        self.retention.load_state(load_file(state / "retention.safetensors"))
        parameters = dict(stage.model.hf.named_parameters())
        for name, value in load_file(state / "weights.safetensors").items():
            parameters[name].data.copy_(value)
        stage.model.weights_version += 1
        self.retention.restore(stage)
        return True

    def _measured(self, model: LanguageModel, name: str) -> dict[str, float]:
        """Accuracy on every suite, from the files of a stage that was measured before."""
        scores = {}
        for suite, measuring in self.suites.items():
            file = None
            if self.folder is not None:
                file = self.folder / name / f"evaluation-{suite}.json"
            if file is not None and file.is_file():
                evaluation: Evaluation = read_evaluation(file)
            else:
                evaluation = measuring.of(model)
                if file is not None:
                    file.parent.mkdir(parents=True, exist_ok=True)
                    evaluation.save(file)
            scores[suite] = evaluation.accuracy().estimate
        shown = ", ".join(f"{suite} {score:.1%}" for suite, score in scores.items())
        write(self.console, f"after {name}: {shown}")
        return scores

    def _table(self, rows: list[dict[str, float]], model: LanguageModel) -> Continual:
        names = [name for name, _ in self.stages]
        scores = np.array([[row[name] for name in names] for row in rows])
        others = {s: [row[s] for row in rows] for s in self.suites if s not in names}
        return Continual(names, self.label, scores, others, model)
