"""Measure a model of scores: on rows with verdicts, and in choosing the best of several
completions.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
from rich.table import Table

from posttrain.config import Component, DataConfig, Limits, SamplingConfig
from posttrain.data.account import Account
from posttrain.data.formats import detect_format
from posttrain.data.scored import EncodedScores, kind_of
from posttrain.errors import ConfigError
from posttrain.evaluation.reward_model import best_of_curve, measure
from posttrain.evaluation.statistics import paired_bootstrap
from posttrain.files import write_text_whole
from posttrain.methods.evaluate import needed
from posttrain.methods.objects import (
    ModelLike,
    Rewards,
    Rows,
    TaskLike,
    components_of,
    data_of,
    model_of,
    rewards_of,
    task_of,
)
from posttrain.methods.prompts import encode_prompts, make_collector, sampling_of
from posttrain.methods.reward_model import encode_scored, read_rows
from posttrain.models.load import score_level, separate_padding
from posttrain.models.score_model import ScoreModel
from posttrain.models.spec import ModelSpec
from posttrain.registry import methods
from posttrain.rewards.base import as_completion
from posttrain.rewards.model import RewardModel
from posttrain.terminal import styled, write, write_table
from posttrain.training.hooks import finite
from posttrain.training.plan import Facts, Job, Place, PreparedJob


@methods.register
def evaluate_reward(
    data: Rows | None = None,
    *,
    take_as: Literal["rewarded", "pairs", "listwise", "labelled"] = "rewarded",
    task: TaskLike | None = None,
    policy: ModelLike | None = None,
    rewards: Rewards = ("task",),
    num_samples: int = 16,
    sampling: SamplingConfig = SamplingConfig(),
    aggregation: Literal["last", "min", "prod", "mean"] = "last",
    step_separator: str = "\n",
    max_tokens_per_micro_batch: int | None = None,
    limits: Limits = Limits(),
) -> Job:
    """Evaluate a reward model, and write reward_evaluation.json.

    Of pairs: accuracy with its interval, calibration (ECE and Brier score of s(margin)), and
    length: its correlation with the score, and accuracy where the rejected one is longer. Of
    labels: accuracy, AUC, calibration. Of steps: the same, and how often the first wrong step is
    found (F1 of ProcessBench, arXiv 2412.06559). With task and policy: the gold reward of the best
    of 1, 2, 4, ... completions by the model's score, beside the bound of KL(best-of-N || policy).

    Args:
        data: held-out rows of any format that method reward_model takes.
        take_as: what rows of prompt, completion and reward are made into.
        task: problems for best-of-N.
        policy: the model that writes their completions.
        rewards: the gold rewards of the completions, with weights.
        num_samples: completions per problem.
        sampling: of the completions.
        aggregation: of the scores of steps into one.
        step_separator: text between steps.
        max_tokens_per_micro_batch: distinct tokens that one forward pass holds.
        limits: how much may fail or be dropped.
    """
    settings = dict(locals())
    items = components_of(rewards)
    _check(data, task, policy, num_samples)
    _refuse_unread(data, take_as, policy, items, num_samples, sampling)
    rows = None if data is None else data_of(data)
    kind = None if rows is None else _kind(rows, take_as)

    def prepare(spec: ModelSpec | None, seed: int) -> PreparedJob:
        scored = needed(spec)
        level = score_level(scored.place)
        _check_aggregation(aggregation, policy, level)
        account = Account()
        separate_padding(scored.tokenizer)
        encoded = None
        if rows is not None and kind is not None:
            encoded = encode_scored(
                scored, rows, kind=kind, step_separator=step_separator, account=account
            )
        best_of = None
        if task is not None and policy is not None:
            best_of = _BestOf(task, policy, items, sampling, num_samples, seed, limits, account)

        def run(place: Place) -> dict[str, Any]:
            model = scored.load_scores(per=level)
            place.open()
            outcome: dict[str, Any] = {}
            if encoded is not None:
                limit = max_tokens_per_micro_batch or _most_tokens(model)
                outcome["data"] = _on_rows(place, model, encoded, limit)
            if best_of is not None:
                scorer = RewardModel(
                    model, level=level, aggregation=aggregation, separator=step_separator
                )
                outcome["best_of"] = best_of.measure(place, scorer)
            text = json.dumps(_plain(outcome), indent=1)
            write_text_whole(place.path / "reward_evaluation.json", text)
            return outcome

        return PreparedJob(facts=_facts(level, encoded, best_of), run=run, account=account)

    return Job(
        method="evaluate_reward",
        settings=settings,
        prepare=prepare,
        leaves="reward_evaluation.json",
    )


def _check(
    data: Rows | None, task: TaskLike | None, policy: ModelLike | None, num_samples: int
) -> None:
    """There are rows, or problems together with a policy, or both; and something to choose from."""
    if (data is None and task is None) or (task is None) != (policy is None):
        raise ConfigError(
            "evaluate_reward needs data (rows with verdicts), or task and policy (best-of-N), or "
            "all three"
        )
    if num_samples < 2:
        raise ConfigError(f"num_samples: {num_samples} leaves nothing to choose from; at least 2")


def _facts(level: str, encoded: EncodedScores | None, best_of: _BestOf | None) -> Facts:
    facts = [("model", f"a score for each {level}")]
    if encoded is not None:
        facts.append(("data", f"{len(encoded.trees)} rows of format {encoded.form.name}"))
    if best_of is not None:
        facts.append(("best of N", best_of.text))
    return facts


def _most_tokens(model: ScoreModel) -> int:
    """Tokens of one forward pass, where the caller names no limit."""
    return 2048 if model.device.type == "cpu" else 16384


def _kind(rows: DataConfig, take_as: Any) -> Any:
    """The kind of the rows; of rewarded rows what they are taken for."""
    kind = kind_of(detect_format(read_rows(rows)))
    if take_as != "rewarded" and kind != "rewarded":
        raise ConfigError(
            f"take_as: {take_as} is of rows with a reward, and these are of kind {kind}; leave it "
            "out"
        )
    return take_as if kind == "rewarded" else kind


def _check_aggregation(aggregation: str, policy: ModelLike | None, level: str) -> None:
    if aggregation == "last" or (policy is not None and level != "sequence"):
        return
    why = (
        "this model scores a whole completion" if level == "sequence" else "it belongs to best-of-N"
    )
    raise ConfigError(
        f"aggregation: {aggregation} of the scores of steps is not read: {why}; leave it out"
    )


def _refuse_unread(
    data: Rows | None,
    take_as: str,
    policy: ModelLike | None,
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


def _on_rows(
    place: Place, model: ScoreModel, encoded: EncodedScores, max_tokens: int
) -> dict[str, Any]:
    scores = model.score(encoded.trees, max_tokens)
    measured = measure(encoded.kind, encoded.trees, scores)
    table = Table(box=None, pad_edge=False)
    for name in ("measure", "value", "95% interval"):
        table.add_column(name)
    for name, value in measured.items():
        has_interval = isinstance(value, dict)
        number = value["estimate"] if has_interval else value
        if math.isfinite(number):
            table.add_row(
                styled(name),
                f"{number:.3f}",
                f"{value['low']:.3f} to {value['high']:.3f} (n {value['n']})"
                if has_interval
                else "",
            )
    write_table(place.console, table)
    return {"rows": len(encoded.trees), "format": encoded.form.name, **measured}


class _BestOf:
    """Best-of-N by a scorer: the policy's prompts by its own tokenizer, and the gold rewards."""

    def __init__(
        self,
        task: TaskLike,
        policy: ModelLike,
        rewards: list[Component],
        sampling: SamplingConfig,
        num_samples: int,
        seed: int,
        limits: Limits,
        account: Account,
    ) -> None:
        spec = model_of(policy)
        assert spec is not None
        self.policy, self.num_samples, self.seed = spec, num_samples, seed
        self.task = task_of(task)
        self.sampling = sampling_of(sampling, self.task)
        self.prompts = encode_prompts(
            spec, self.task, self.sampling, limits=limits, account=account
        )
        self.rewards = rewards_of(rewards, self.task, limits)

    @property
    def text(self) -> str:
        """What is measured, as a check shows it."""
        problems = f"{len(self.prompts)} problems of {self.task.name}"
        return f"{self.num_samples} completions of {problems}"

    def measure(self, place: Place, scorer: RewardModel) -> dict[str, Any]:
        """The curve of gold rewards over N, printed as a table."""
        collector = make_collector(
            self.policy.load(),
            self.prompts,
            self.rewards,
            self.sampling,
            len(self.prompts),
            self.num_samples,
            self.seed,
        )
        groups = collector.collect(0)
        flat = [(g.example.prompt, r) for g in groups for r in g.traces]
        proxy = np.array(
            scorer([p for p, _ in flat], [as_completion(p, r.text) for p, r in flat])
        ).reshape(len(groups), -1)
        gold = np.array([math.nan if r.reward is None else r.reward for _, r in flat]).reshape(
            len(groups), -1
        )
        whole = np.isfinite(proxy).all(1) & np.isfinite(gold).all(1)
        if not whole.any():
            raise ConfigError(
                "every problem has a completion without a score or a reward, so that nothing can "
                "be compared"
            )
        curve = best_of_curve(proxy[whole], gold[whole])
        best = gold[whole][np.arange(int(whole.sum())), proxy[whole].argmax(1)]
        gained = paired_bootstrap(gold[whole].mean(1), best, seed=self.seed)
        table = Table(
            box=None, pad_edge=False, title="best of N by score (oracle: best by the gold reward)"
        )
        for name in ("N", "KL bound", "gold reward", "95% interval", "score", "oracle"):
            table.add_column(name)
        for point in curve:
            interval = f"{point['low']:.3f} to {point['high']:.3f}"
            numbers = [f"{point[name]:.3f}" for name in ("kl", "gold", "score", "ceiling")]
            table.add_row(str(point["n"]), *numbers[:2], interval, *numbers[2:])
        write_table(place.console, table)
        write(
            place.console,
            f"best of {self.num_samples} against one sample: {gained.estimate:+.3f} "
            f"[{gained.low:+.3f}, {gained.high:+.3f}], p = {gained.p_value:.2g}, on {gained.n} "
            "problems",
        )
        return {
            "problems": int(whole.sum()),
            "left_out": int((~whole).sum()),
            "num_samples": self.num_samples,
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
