"""Measure a model of scores: on rows with verdicts, and in choosing the best of several
completions.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from typing import Any, Literal

import numpy as np
from rich.table import Table

from posttrain.config import Component, DataConfig, ModelConfig, SamplingConfig
from posttrain.data.formats import detect_format
from posttrain.data.scored import EncodedScores, kind_of
from posttrain.errors import ConfigError
from posttrain.evaluation.reward_model import best_of_curve, measure
from posttrain.evaluation.statistics import paired_bootstrap
from posttrain.methods.prompting import (
    context_length,
    encode_prompts,
    make_collector,
    make_rewards,
    make_sampling,
    make_task,
)
from posttrain.methods.reward_model import encode_data, read_rows
from posttrain.methods.run import Job, Run
from posttrain.models.load import score_level, separate_padding
from posttrain.models.score_model import ScoreModel
from posttrain.registry import methods
from posttrain.rewards.base import as_completion
from posttrain.rewards.model import RewardModel
from posttrain.terminal import styled, write, write_table
from posttrain.training.checkpoint import write_text_whole
from posttrain.training.hooks import finite


@methods.register
def evaluate_reward(
    run,
    *,
    data: DataConfig | None = None,
    take_as: Literal["rewarded", "pairs", "listwise", "labelled"] = "rewarded",
    task: Component | None = None,
    policy: ModelConfig | None = None,
    rewards: list[Component] = ("task",),  # type: ignore[assignment]
    num_samples: int = 16,
    sampling: SamplingConfig = {},  # type: ignore[assignment]
    aggregation: Literal["last", "min", "prod", "mean"] = "last",
    step_separator: str = "\n",
    max_tokens_per_micro_batch: int | None = None,
) -> Job:
    """Tell what the scores of the recipe's model are worth, and write reward_evaluation.json.

    data: held-out rows of any format that method reward_model takes. Of pairs: accuracy with its
    interval, calibration (ECE and Brier score of s(margin)), and length: its correlation with the
    score, and accuracy where the rejected one is longer. Of labels: accuracy, AUC, calibration. Of
    steps: the same, and how often the first wrong step is found (F1 of ProcessBench, arXiv
    2412.06559). take_as: what rows of prompt, completion and reward are made into. task and policy:
    num_samples completions of each problem by the policy, of which the model chooses the best of 1,
    2, 4, ...: the gold reward (`rewards`) of its choice, beside the bound of KL(best-of-N ||
    policy).
    """
    if (data is None and task is None) or (task is None) != (policy is None):
        raise ConfigError(
            "evaluate_reward needs data (rows with verdicts), or task and policy (best-of-N), or "
            "all three"
        )
    _refuse_unread(data, take_as, policy, rewards, num_samples, sampling)
    if num_samples < 2:
        raise ConfigError(f"num_samples: {num_samples} leaves nothing to choose from; at least 2")
    level = score_level(run.model_path)
    if aggregation != "last" and (policy is None or level == "sequence"):
        why = (
            "this model scores a whole completion"
            if level == "sequence"
            else "it belongs to best-of-N"
        )
        raise ConfigError(
            f"aggregation: {aggregation} of the scores of steps is not read: {why}; leave it out"
        )
    context = context_length(run, "sequence_score")
    separate_padding(run.tokenizer)
    encoded = None
    if data is not None:
        kind = kind_of(detect_format(read_rows(run, data)))
        if take_as != "rewarded" and kind != "rewarded":
            raise ConfigError(
                f"take_as: {take_as} is of rows with a reward, and these are of kind {kind}; "
                "leave it out"
            )
        kind = take_as if kind == "rewarded" else kind
        encoded = encode_data(run, data, context, kind=kind, step_separator=step_separator)
    asked = None
    if task is not None and policy is not None:
        asked = _Asked(run, task, policy, rewards, sampling)
    facts = [("model", f"a score for each {level}")]
    facts += (
        [("data", f"{len(encoded.trees)} rows of format {encoded.form.name}")] if encoded else []
    )
    facts += (
        [
            (
                "best of N",
                f"{num_samples} completions of {len(asked.prompts)} problems of {asked.task.name}",
            )
        ]
        if asked
        else []
    )

    def execute() -> None:
        model = run.load_score_model(per=level)
        run.open()
        told: dict[str, Any] = {}
        if encoded is not None:
            told["data"] = _on_rows(run, model, encoded)
        if asked is not None:
            scorer = RewardModel(
                model, level=level, aggregation=aggregation, separator=step_separator
            )
            told["best_of"] = _best_of(run, scorer, asked, num_samples)
        write_text_whole(run.folder / "reward_evaluation.json", json.dumps(_plain(told), indent=1))

    return Job(facts, execute)


def _refuse_unread(
    data: DataConfig | None,
    take_as: str,
    policy: ModelConfig | None,
    rewards: list[Component],
    num_samples: int,
    sampling: SamplingConfig,
) -> None:
    """Refuse settings of the half that is left out."""
    choosing = {"rewards": rewards != [Component("task")], "num_samples": num_samples != 16}
    choosing["sampling"] = sampling != SamplingConfig()
    for key, is_set in choosing.items():
        if is_set and policy is None:
            raise ConfigError(
                f"{key}: it belongs to best-of-N; set task and policy as well, or leave it out"
            )
    if take_as != "rewarded" and data is None:
        raise ConfigError(
            f"take_as: {take_as} says how rows of data are read; set data as well, or leave it out"
        )


def _on_rows(run: Run, model: ScoreModel, encoded: EncodedScores) -> dict[str, Any]:
    scores = model.score(encoded.trees, run.micro_batch_tokens(model))
    measured = measure(encoded.kind, encoded.trees, scores)
    table = Table(box=None, pad_edge=False)
    for name in ("measure", "value", "95% interval"):
        table.add_column(name)
    for name, value in measured.items():
        known = isinstance(value, dict)
        number = value["estimate"] if known else value
        if math.isfinite(number):
            table.add_row(
                styled(name),
                f"{number:.3f}",
                f"{value['low']:.3f} to {value['high']:.3f} (n {value['n']})" if known else "",
            )
    write_table(run.console, table)
    return {"rows": len(encoded.trees), "format": encoded.form.name, **measured}


class _Asked:
    """The policy's side of best-of-N: prompts by its own tokenizer, and the gold rewards."""

    def __init__(
        self,
        run: Run,
        task: Component,
        policy: ModelConfig,
        rewards: list[Component],
        sampling: SamplingConfig,
    ) -> None:
        self.run = Run(replace(run.recipe, model=policy), console=run.console)
        self.task = make_task(run, task)
        self.sampling = make_sampling(sampling, self.task)
        self.prompts = encode_prompts(self.run, self.task, self.sampling)
        run.lost |= self.run.lost
        self.rewards = make_rewards(run, rewards, self.task)
        self.rewards.self_test(self.task.examples)


def _best_of(run: Run, scorer: RewardModel, asked: _Asked, num_samples: int) -> dict[str, Any]:
    collector = make_collector(
        asked.run,
        asked.run.load_model(),
        asked.prompts,
        asked.rewards,
        asked.sampling,
        batch_size=len(asked.prompts),
        num_generations=num_samples,
    )
    groups = collector.collect(0)
    flat = [(g.example.prompt, r) for g in groups for r in g.rollouts]
    proxy = np.array(
        scorer([p for p, _ in flat], [as_completion(p, r.text) for p, r in flat])
    ).reshape(len(groups), -1)
    gold = np.array([math.nan if r.reward is None else r.reward for _, r in flat]).reshape(
        len(groups), -1
    )
    whole = np.isfinite(proxy).all(1) & np.isfinite(gold).all(1)
    if not whole.any():
        raise ConfigError(
            "every problem has a completion without a score or a reward, so that nothing can be "
            "compared"
        )
    curve = best_of_curve(proxy[whole], gold[whole])
    best = gold[whole][np.arange(int(whole.sum())), proxy[whole].argmax(1)]
    gained = paired_bootstrap(gold[whole].mean(1), best, seed=run.recipe.seed)
    table = Table(
        box=None, pad_edge=False, title="best of N by score (oracle: best by the gold reward)"
    )
    for name in ("N", "KL bound", "gold reward", "95% interval", "score", "oracle"):
        table.add_column(name)
    for point in curve:
        interval = f"{point['low']:.3f} to {point['high']:.3f}"
        numbers = [f"{point[name]:.3f}" for name in ("kl", "gold", "score", "ceiling")]
        table.add_row(str(point["n"]), *numbers[:2], interval, *numbers[2:])
    write_table(run.console, table)
    write(
        run.console,
        f"best of {num_samples} against one sample: {gained.estimate:+.3f} [{gained.low:+.3f}, "
        f"{gained.high:+.3f}], "
        f"p = {gained.p_value:.2g}, on {gained.n} problems",
    )
    return {
        "problems": int(whole.sum()),
        "left_out": int((~whole).sum()),
        "num_samples": num_samples,
        "curve": curve,
        "gain": asdict(gained),
    }


def _plain(value: Any) -> Any:
    """Values as JSON has them: what is not a number is null."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return finite(value) if isinstance(value, float) else value
