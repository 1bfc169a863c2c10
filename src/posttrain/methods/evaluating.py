"""What a run tells about its model: evaluation.json, and the table of a pipeline's stages."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from posttrain import registry
from posttrain.config import Component
from posttrain.data.templates import decode_completion
from posttrain.engines.torch import TorchEngine
from posttrain.errors import ConfigError
from posttrain.evaluation.run import Evaluation, compare, evaluate, evaluate_search, read_evaluation
from posttrain.methods.prompting import encode_prompts, make_sampling, make_task
from posttrain.methods.run import Run
from posttrain.models.language_model import LanguageModel
from posttrain.rewards.base import RewardSet
from posttrain.terminal import write
from posttrain.training.checkpoint import write_text_whole
from posttrain.training.hooks import Hook


def measuring_hook(run: Run, steps: int, measure: Callable[[], dict[str, float]]) -> Hook:
    """Tells what `measure` gives: before the first step, every eval_every steps, and after the last."""
    every = run.recipe.eval_every

    def tell(step: int, metrics: dict[str, float]) -> None:
        if step == steps or (every and step % every == 0):
            metrics.update(measure())

    if run.resume_step == 0:
        run.first_metrics.update(measure())
    return tell


def evaluate_model(
    run: Run, model: LanguageModel, search: Component | None = None, scorer: RewardSet | None = None
) -> Evaluation:
    """Measure a model as the recipe's `evaluation` says, and write evaluation.json. scorer: what guides the search."""
    config = run.recipe.evaluation
    if config is None:
        raise ConfigError("missing key 'evaluation': which task to measure the model on")
    task = make_task(run, config.task)
    sampling = make_sampling(config.sampling, task)
    prompts = [(p.example, p.ids) for p in encode_prompts(run, task, sampling)[: config.num_examples]]
    started = time.perf_counter()
    engine = TorchEngine(model)

    def decode(sample: Any) -> str:
        return decode_completion(model.tokenizer, sample)

    if search is None:
        result = evaluate(engine, prompts, task, decode, num_samples=config.num_samples, sampling=sampling, seed=config.seed)
    else:
        strategy = registry.searches.bind(search.name, search.settings)
        inputs = registry.searches.entry(search.name).inputs
        result = evaluate_search(
            engine, prompts, task, decode, strategy, inputs, name=search.name, sampling=sampling, seed=config.seed,
            value=model.critic.at_ends if model.critic is not None else None,
            score=scorer.score if scorer is not None else None,
        )  # fmt: skip
    values = {**result.to_json(), "seconds": time.perf_counter() - started}
    write_text_whole(run.folder / "evaluation.json", json.dumps(values))
    interval = result.accuracy()
    by = f" by {search.name}" if search else ""
    write(
        run.console,
        f"{task.name}: accuracy {interval.estimate:.1%} (95 % interval {interval.low:.1%} to {interval.high:.1%}) "
        f"on {len(prompts)} problems{by}",
    )
    write(run.console, _details(result), style="dim")
    return result


def _details(result: Evaluation) -> str:
    """pass@k, maj@k, tokens and what did not count, as one line."""
    metrics = result.metrics()
    by_k = [f"{name} {value['estimate']:.1%}" for name, value in metrics.items() if name.startswith(("pass@", "maj@"))]
    told = [
        *by_k,
        f"{metrics['mean_tokens']:.0f} tokens a problem" if result.search else f"{metrics['mean_tokens']:.0f} tokens",
    ]
    told += [f"{metrics[name]:.1%} {what}" for name, what in (("truncated", "cut off"), ("unparsed", "without an answer"))]
    if metrics["errors"]:
        told.append(f"{metrics['errors']} failures of the verifier")
    return "  " + ", ".join(told)


def summarise(run: Run, stages: Mapping[str, Run], seconds: Mapping[str, float]) -> None:
    """Write summary.json: a row for each stage that was evaluated, compared with the row above, paired."""
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
                "p_value": None if above is None else compare(above, evaluation).p_value,
                "pass@k": {k.partition("@")[2]: v["estimate"] for k, v in metrics.items() if k.startswith("pass@")},
                "maj@k": {k.partition("@")[2]: v["estimate"] for k, v in metrics.items() if k.startswith("maj@")},
                "mean_tokens": metrics["mean_tokens"],
                "seconds": seconds.get(name),
                "note": evaluation.search or "",
            }
        )
        above = evaluation
    summary = {"title": run.recipe.title or "pipeline", "command": run.command, "rows": rows}
    write_text_whole(run.folder / "summary.json", json.dumps(summary, indent=1))
