"""Offline reinforcement learning: from completions that were sampled and rewarded beforehand."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from posttrain.config import Component, DataConfig, EvaluationConfig, ModelConfig
from posttrain.data.encode import encode_rows
from posttrain.data.encoded import Encoded
from posttrain.data.forest import TokenSequence
from posttrain.data.item import Item
from posttrain.data.preview import preview
from posttrain.data.stream import DataSource
from posttrain.errors import ConfigError, DataError
from posttrain.inputs import OFFLINE_REWARDS
from posttrain.methods.evaluating import evaluate_model, evaluation_hooks
from posttrain.methods.prompting import check_critic, context_length
from posttrain.methods.rows import encode_data
from posttrain.methods.run import Run, TrainingJob
from posttrain.models.language_model import LanguageModel
from posttrain.registry import methods
from posttrain.training.objective import Objective

Groups = list[list[TokenSequence]]
Baseline = Literal["prompt", "data", "none"]


@methods.register
def offline(
    run,
    *,
    data: DataConfig,
    evaluation: EvaluationConfig | None = None,
    losses: list[Component] = (
        "oreo_policy",
        "oreo_value",
        {"name": "reference_kl", "weight": 0.01},
    ),  # type: ignore[assignment]
    critic: ModelConfig | None = None,
    critic_learning_rate: float | None = None,
    baseline: Literal["prompt", "data", "none"] = "prompt",
    min_reward: float | None = None,
    top_fraction: float = 1.0,
    step_separator: str = "\n",
    learning_rate: float = 5e-6,
    batch_size: int = 16,
    num_train_epochs: float = 1.0,
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear",
) -> TrainingJob:
    """Learning from fixed completions and their rewards; the defaults are OREO (arXiv 2412.16145).

    Rows have prompt, completion and reward (method sample writes such rows), or a label that counts
    as 0 or 1. A step takes batch_size prompts with all their completions. Losses that ask for
    values get a critic: a copy of the model, or of
    `critic`, with a head that starts at 0, trained in the same steps and saved in model/critic,
    where the search value_beam finds it. Losses with a reference compare with the model that the
    run starts from. Only rows with a reward of at least min_reward, and of those the top_fraction
    with the highest, are trained on.
      OREO by lines:     losses: [{name: oreo_policy, level: step}, {name: oreo_value, level: step},
                         ...]
      DRO:               the same with level: sequence
      AWR:               losses: [awr] with baseline: prompt or data; with a critic losses:
                         [awr_critic, value_regression]
      reward-weighted regression:   losses: [awr], baseline: none
      filtered behaviour cloning:   losses: [nll], min_reward: 1.0 (or top_fraction: 0.2)
    """
    objective = Objective(
        losses,
        carries=OFFLINE_REWARDS,
    )
    _check(objective, critic, critic_learning_rate, top_fraction)
    if "values" in objective.needs:
        check_critic(run, critic)
    encoded = _encode(run, data)
    objective.check_weights(encoded.sequences)
    kept = _kept(encoded, min_reward, top_fraction)
    groups = _by_prompt(kept)
    if "advantages" in objective.needs:
        _add_advantages(_by_prompt(list(encoded.sequences)), baseline)
    if "step" in objective.needs:
        _add_steps(kept, run.tokenizer, step_separator)
    source = DataSource(groups, batch_size=batch_size, seed=run.recipe.seed, whole=objective.whole)
    steps = run.steps_for(source.steps_per_epoch)

    def load(last: Path | None) -> LanguageModel:
        model = run.load_model(reference=objective.needs_reference, weights=last)
        if "values" in objective.needs:
            run.add_critic(model, critic, learning_rate=critic_learning_rate, last=last)
        return model

    def execute() -> None:
        model = run.train(
            lambda _: source,
            objective,
            steps=steps,
            load=load,
            make_hooks=lambda model, _: evaluation_hooks(run, model, evaluation, steps),
        )
        evaluate_model(run, model, evaluation)

    facts = _facts(encoded, kept, groups, objective, steps, batch_size)
    return TrainingJob(
        facts, execute, lambda num: preview(encoded, run.tokenizer, run.console, num)
    )


def _check(
    objective: Objective,
    critic: ModelConfig | None,
    critic_learning_rate: float | None,
    top_fraction: float,
) -> None:
    if "values" not in objective.needs and (critic is not None or critic_learning_rate is not None):
        names = ", ".join(t.name for t in objective.terms)
        raise ConfigError(
            f"critic: none of the losses ({names}) asks for values; leave critic and "
            "critic_learning_rate out"
        )
    if critic_learning_rate is not None and critic_learning_rate <= 0:
        raise ConfigError(f"critic_learning_rate: {critic_learning_rate} must be above 0")
    if not 0 < top_fraction <= 1:
        raise ConfigError(
            f"top_fraction: {top_fraction} must be above 0 and at most 1 (1 keeps every row)"
        )


def _encode(run: Run, data: DataConfig) -> Encoded:
    encode = partial(encode_rows, train_on=data.train_on, values=_reward)
    return encode_data(run, data, context_length(run), encode)


def _reward(item: Item) -> dict[str, float]:
    reward = float(item.label) if item.label is not None else item.reward
    if reward is None:
        raise DataError(
            f"row {item.row} has no reward; offline learning needs a column reward (a number) or "
            "label (true or false) in "
            "every row: rename one with data.columns: {reward: theirs}, or leave the row out"
        )
    return {"reward": reward}


def _kept(encoded: Encoded, min_reward: float | None, top_fraction: float) -> list[TokenSequence]:
    """The rows that are trained on, in their order."""
    rewards = np.array([s.values["reward"] for s in encoded.sequences])
    chosen = (
        np.flatnonzero(rewards >= min_reward) if min_reward is not None else np.arange(len(rewards))
    )
    if not len(chosen):
        raise DataError(
            f"min_reward: no row has a reward of at least {min_reward:g}; the {len(rewards)} rows "
            f"reach from {rewards.min():g} "
            f"to {rewards.max():g}. Lower min_reward, or use top_fraction"
        )
    if top_fraction < 1:
        best = np.argsort(-rewards[chosen], kind="stable")[
            : max(1, round(top_fraction * len(chosen)))
        ]
        chosen = np.sort(chosen[best])
    return [encoded.sequences[int(i)] for i in chosen]


def _by_prompt(sequences: list[TokenSequence]) -> Groups:
    """Sequences with the same tokens before the first that is trained, together."""
    groups: dict[bytes, list[TokenSequence]] = {}
    for s in sequences:
        groups.setdefault(s.ids[: int(np.argmax(s.loss_mask))].tobytes(), []).append(s)
    return list(groups.values())


def _add_advantages(groups: Groups, baseline: Baseline) -> None:
    """Stream "advantages": the reward less its baseline, over all rows, those that are not
    trained on included.
    """
    if baseline == "prompt" and all(len(group) == 1 for group in groups):
        raise DataError(
            f"baseline: every one of the {len(groups)} prompts has a single completion, whose "
            "advantage over its prompt's mean "
            "is 0; use baseline: data, or several completions a prompt"
        )
    overall = float(np.mean([s.values["reward"] for group in groups for s in group]))
    for group in groups:
        of_prompt = float(np.mean([s.values["reward"] for s in group]))
        for s in group:
            middle = {"prompt": of_prompt, "data": overall, "none": 0.0}[baseline]
            s.streams["advantages"] = np.full(
                len(s.ids), s.values["reward"] - middle, dtype=np.float32
            )


def _add_steps(sequences: list[TokenSequence], tokenizer: Any, separator: str) -> None:
    """Stream "step": how many trained tokens that hold the separator came before; such a token
    ends its step.
    """
    if not separator:
        raise ConfigError(
            "step_separator: it is empty; a step ends with a token whose text holds it, such as a "
            "line break"
        )
    known = np.unique(np.concatenate([s.ids for s in sequences]))
    ends = known[[separator in tokenizer.decode([int(i)]) for i in known]]
    for s in sequences:
        closing = np.isin(s.ids, ends) & s.loss_mask
        s.streams["step"] = (np.cumsum(closing) - closing).astype(np.float32)


def _facts(
    encoded: Encoded,
    kept: list[TokenSequence],
    groups: Groups,
    objective: Objective,
    steps: int,
    batch_size: int,
) -> list[tuple[str, str]]:
    rewards = np.array([s.values["reward"] for s in encoded.sequences])
    parts = ["a frozen reference"] * objective.needs_reference + ["a critic"] * (
        "values" in objective.needs
    )
    return [
        ("format", f"{encoded.form.name} ({encoded.form.reason})"),
        (
            "rows",
            f"{encoded.num_rows}, of which {encoded.truncated} cut, {encoded.dropped} dropped as "
            "too long, "
            f"{len(encoded.masked)} without a trained token; {len(kept)} are trained on",
        ),
        (
            "prompts",
            f"{len(groups)}, {sum(len(g) == 1 for g in groups)} of them with a single completion",
        ),
        (
            "rewards",
            f"mean {rewards.mean():.3g}, from {rewards.min():g} to {rewards.max():g}"
            + (", all the same: nothing tells good from bad" if np.ptp(rewards) == 0 else ""),
        ),
        (
            "losses",
            ", ".join(f"{t.name} x {t.weight:g}" for t in objective.terms)
            + (f" (with {' and '.join(parts)})" if parts else ""),
        ),
        ("steps", f"{steps} of {batch_size} prompts with all their completions"),
    ]
