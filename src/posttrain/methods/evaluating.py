"""Measurements of a run's model: while it trains, in the end, and for the stages of a pipeline."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from posttrain.config import EvaluationConfig
from posttrain.data.templates import decode_completion
from posttrain.engines.torch import TorchEngine
from posttrain.errors import DataError
from posttrain.evaluation.comparison import compare
from posttrain.evaluation.outcomes import Evaluation, problems_text, read_evaluation
from posttrain.evaluation.samples import measure_samples, measure_search
from posttrain.evaluation.strategy import Strategy
from posttrain.methods.prompting import encode_prompts, make_sampling, make_task
from posttrain.methods.run import Run
from posttrain.models.language_model import LanguageModel
from posttrain.terminal import write
from posttrain.training.checkpoint import write_text_whole
from posttrain.training.hooks import Hook

EVALUATED = "evaluation prompts"
"""What the prompts of an evaluation are called where their losses are told."""


def measuring_hook(run: Run, steps: int, measure: Callable[[], dict[str, float]]) -> Hook:
    """Reports what `measure` gives: before the first step, every eval_every steps, and after
    the last.
    """
    every = run.recipe.eval_every

    def tell(step: int, metrics: dict[str, float]) -> None:
        if step == steps or (every and step % every == 0):
            metrics.update(measure())

    if run.resume_step == 0:
        run.first_metrics.update(measure())
    return tell


class Measurement:
    """The problems of a recipe's `evaluation`, encoded, and how completions of them are sampled.

    Only the first num_examples problems are encoded, so that a prompt that is not asked cannot stop
    an evaluation.
    """

    def __init__(self, run: Run, config: EvaluationConfig) -> None:
        self.config = config
        self.task = make_task(run, config.task)
        self.sampling = make_sampling(config.sampling, self.task)
        self.num_available = len(self.task.examples)
        encoded = encode_prompts(
            run, self.task, self.sampling, num_examples=config.num_examples, what=EVALUATED
        )
        self.prompts = [(p.example, p.ids) for p in encoded]

    @property
    def problems(self) -> str:
        """How many problems are asked: "200 of 300 problems"."""
        return problems_text(len(self.prompts), self.num_available)

    def of(self, model: LanguageModel, strategy: Strategy | None = None) -> Evaluation:
        """Outcomes of a model, alone or under a search strategy."""

        def decode(sample: Any) -> str:
            return decode_completion(model.tokenizer, sample)

        engine = TorchEngine(model)
        shared: dict[str, Any] = {"sampling": self.sampling, "seed": self.config.seed}
        if strategy is None:
            result = measure_samples(
                engine,
                self.prompts,
                self.task,
                decode,
                num_samples=self.config.num_samples,
                **shared,
            )
        else:
            value = model.critic.at_ends if model.critic is not None else None
            result = measure_search(
                engine, self.prompts, self.task, decode, strategy, value=value, **shared
            )
        result.num_available = self.num_available
        result.prompts_dropped = min(self.config.num_examples, self.num_available) - len(
            self.prompts
        )
        result.task_settings = dict(self.config.task.settings)
        return result


def evaluation_hooks(
    run: Run, model: LanguageModel, config: EvaluationConfig | None, steps: int
) -> list[Hook]:
    """The hook that measures a model on `evaluation` every eval_every steps while it trains.

    Metrics: evaluation/accuracy, evaluation/mean_tokens, evaluation/truncated. The measurement
    after the last step is kept for `evaluate_model`.
    """
    every = run.recipe.eval_every
    if config is None or not every:
        return []
    measurement = Measurement(run, config)

    def measure(step: int, metrics: dict[str, float]) -> None:
        if step % every:
            return
        started = time.perf_counter()
        result = measurement.of(model)
        if step == steps:
            run.measured = result, time.perf_counter() - started
        values = result.metrics()
        metrics["evaluation/accuracy"] = values["accuracy"]["estimate"]
        metrics.update(
            {f"evaluation/{name}": values[name] for name in ("mean_tokens", "truncated")}
        )

    return [measure]


def evaluate_model(
    run: Run,
    model: LanguageModel,
    config: EvaluationConfig | None,
    strategy: Strategy | None = None,
) -> Evaluation | None:
    """Measure a model as `config` says and write evaluation.json; without a config, do nothing."""
    if config is None:
        return None
    started = time.perf_counter()
    if run.measured is not None and strategy is None:
        result, seconds = run.measured
    else:
        result = Measurement(run, config).of(model, strategy)
        seconds = time.perf_counter() - started
    write_text_whole(
        run.folder / "evaluation.json", json.dumps({**result.to_json(), "seconds": seconds})
    )
    write(run.console, result.headline())
    for line in result.details():
        write(run.console, f"  {line}", style="dim")
    if strategy is not None and strategy.oracle:
        write(run.console, strategy.warning(), style="yellow")
    return result


def summarise(run: Run, stages: Mapping[str, Run], seconds: Mapping[str, float]) -> None:
    """Write summary.json: a row for each stage that was evaluated, compared with the row above,
    paired.
    """
    rows: list[dict[str, Any]] = []
    above: Evaluation | None = None
    for name, stage in stages.items():
        if not (stage.folder / "evaluation.json").exists():
            continue
        evaluation = read_evaluation(stage.folder)
        metrics = evaluation.metrics()
        rows.append(
            {
                "stage": stage.recipe.title or name,
                "folder": name,
                "accuracy": metrics["accuracy"]["estimate"],
                "low": metrics["accuracy"]["low"],
                "high": metrics["accuracy"]["high"],
                "p_value": None if above is None else _p_value(above, evaluation),
                "pass@k": {
                    k.partition("@")[2]: v["estimate"]
                    for k, v in metrics.items()
                    if k.startswith("pass@")
                },
                "maj@k": {
                    k.partition("@")[2]: v["estimate"]
                    for k, v in metrics.items()
                    if k.startswith("maj@")
                },
                "mean_tokens": metrics["mean_tokens"],
                "seconds": seconds.get(name),
                "note": evaluation.strategy or "",
                "search": " ".join(evaluation.details()[:-1]).removeprefix("search "),
                "search_settings": evaluation.search_settings,
                "scorer": evaluation.scorer,
                "oracle": bool(evaluation.oracle),
                "problems": evaluation.problems,
            }
        )
        above = evaluation
    summary = {"title": run.recipe.title or "pipeline", "command": run.command, "rows": rows}
    write_text_whole(run.folder / "summary.json", json.dumps(summary, indent=1))


def _p_value(a: Evaluation, b: Evaluation) -> float | None:
    """Paired p-value; None where two stages were measured on different questions."""
    try:
        return compare(a, b).p_value
    except DataError:
        return None
