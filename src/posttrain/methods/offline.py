"""Offline reinforcement learning: from completions that were sampled and rewarded beforehand."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import numpy as np

from posttrain.config import DataConfig
from posttrain.data.account import Account
from posttrain.data.encode import encode_rows
from posttrain.data.encoded import Encoded
from posttrain.data.forest import TokenSequence
from posttrain.data.item import Item
from posttrain.data.preview import preview
from posttrain.data.training_data import encode_data, steps_text
from posttrain.errors import ConfigError, DataError
from posttrain.inputs import OFFLINE_REWARDS
from posttrain.methods.comparisons import losses_text
from posttrain.methods.objects import Losses, ModelLike, Rows, components_of, data_of, model_of
from posttrain.methods.prompts import check_critic
from posttrain.models.spec import ModelSpec
from posttrain.registry import methods
from posttrain.sources.rows import DataSource
from posttrain.training.objective import Objective
from posttrain.training.optim import Schedule
from posttrain.training.plan import AdamW, Critic, Facts, Plan, Work, steps_of

Groups = list[list[TokenSequence]]
Baseline = Literal["prompt", "data", "none"]


@methods.register(trains="language")
def offline(
    data: Rows,
    *,
    losses: Losses = ("oreo_policy", "oreo_value", {"name": "reference_kl", "weight": 0.01}),
    critic: ModelLike | None = None,
    critic_learning_rate: float | None = None,
    baseline: Baseline = "prompt",
    min_reward: float | None = None,
    top_fraction: float = 1.0,
    step_separator: str = "\n",
    learning_rate: float = 5e-6,
    batch_size: int = 16,
    num_train_epochs: float = 1.0,
    lr_scheduler_type: Schedule = "linear",
) -> Plan:
    """Learning from fixed completions and their rewards; the defaults are OREO (arXiv 2412.16145).

    Rows have prompt, completion and reward (method sample writes such rows), or a label that counts
    as 0 or 1. A step takes batch_size prompts with all their completions. Losses that ask for
    values get a critic with a head that starts at 0. It is trained in the same steps and saved in
    model/critic, where the search value_beam finds it. Losses with a reference compare with the
    model that the run starts from.
      OREO by lines:                losses: [{name: oreo_policy, level: step},
                                    {name: oreo_value, level: step}, ...]
      DRO:                          the same with level: sequence
      AWR:                          losses: [awr] with baseline: prompt or data; with a critic
                                    losses: [awr_critic, value_regression]
      reward-weighted regression:   losses: [awr], baseline: none
      filtered behaviour cloning:   losses: [nll], min_reward: 1.0 (or top_fraction: 0.2)

    Args:
        data: rows of prompt, completion and reward or label.
        losses: losses of tokens or sequences, with weights.
        critic: the model that the critic starts from; None is a copy of the trained model.
        critic_learning_rate: the critic's own; None is learning_rate.
        baseline: what is subtracted from a reward: the mean of its prompt, of the data, nothing.
        min_reward: rows with less are not trained on; None = no bound.
        top_fraction: of the rows that are left, the share with the highest rewards is trained on.
        step_separator: text whose token ends a step, for losses of steps.
        learning_rate: the largest of the run.
        batch_size: prompts per step.
        num_train_epochs: passes over the data, where the number of steps is not set.
        lr_scheduler_type: how the learning rate changes.
    """
    settings = dict(locals())
    objective = Objective(components_of(losses), carries=OFFLINE_REWARDS)
    critic_model = model_of(critic)
    _check(objective, critic_model, critic_learning_rate, top_fraction)
    has_critic = "values" in objective.needs

    def prepare(spec: ModelSpec, seed: int, steps: int | None) -> Work:
        if has_critic:
            check_critic(spec, critic_model)
        account = Account()
        encoded = _encode(spec, data_of(data), account)
        objective.check_weights(encoded.sequences)
        rows = _trained_rows(encoded, min_reward, top_fraction)
        groups = _by_prompt(rows)
        if "advantages" in objective.needs:
            _add_advantages(_by_prompt(list(encoded.sequences)), baseline)
        if "step" in objective.needs:
            _add_steps(rows, spec.tokenizer, step_separator)
        source = DataSource(groups, batch_size=batch_size, seed=seed, whole=objective.whole)
        number = steps_of(steps, num_train_epochs, source.steps_per_epoch)
        return Work(
            steps=number,
            source=lambda learner: source,
            facts=_facts(encoded, rows, groups, objective, number, batch_size),
            account=account,
            preview=lambda console, num: preview(encoded, spec.tokenizer, console, num),
        )

    return Plan(
        method="offline",
        settings=settings,
        objective=objective,
        prepare=prepare,
        optimizer=AdamW(learning_rate, lr_scheduler_type),
        critic=Critic(critic_model, critic_learning_rate, adapters=True) if has_critic else None,
    )


def _check(
    objective: Objective,
    critic: ModelSpec | None,
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


def _encode(spec: ModelSpec, data: DataConfig, account: Account) -> Encoded:
    encode = partial(encode_rows, train_on=data.train_on, values=_reward)
    return encode_data(data, spec.tokenizer, spec.context_length(), encode, account=account)


def _reward(item: Item) -> dict[str, float]:
    reward = float(item.label) if item.label is not None else item.reward
    if reward is None:
        raise DataError(
            f"row {item.row} has no reward; offline learning needs a column reward (a number) or "
            "label (true or false) in "
            "every row: rename one with data.columns: {reward: theirs}, or leave the row out"
        )
    return {"reward": reward}


def _trained_rows(
    encoded: Encoded, min_reward: float | None, top_fraction: float
) -> list[TokenSequence]:
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
            "is 0; use baseline: data, or several completions per prompt"
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
    tokens = np.unique(np.concatenate([s.ids for s in sequences]))
    ends = tokens[[separator in tokenizer.decode([int(i)]) for i in tokens]]
    for s in sequences:
        closing = np.isin(s.ids, ends) & s.loss_mask
        s.streams["step"] = (np.cumsum(closing) - closing).astype(np.float32)


def _facts(
    encoded: Encoded,
    rows: list[TokenSequence],
    groups: Groups,
    objective: Objective,
    steps: int,
    batch_size: int,
) -> Facts:
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
            f"{len(encoded.masked)} without a trained token; {len(rows)} are trained on",
        ),
        (
            "prompts",
            f"{len(groups)}, {sum(len(g) == 1 for g in groups)} of them with a single completion",
        ),
        (
            "rewards",
            f"mean {rewards.mean():.3g}, from {rewards.min():g} to {rewards.max():g}"
            + (
                ", all equal: they do not distinguish good completions from bad"
                if np.ptp(rewards) == 0
                else ""
            ),
        ),
        (
            "losses",
            losses_text(objective) + (f" (with {' and '.join(parts)})" if parts else ""),
        ),
        (
            "steps",
            steps_text(steps, batch_size, len(groups), "prompts") + " with all their completions",
        ),
    ]
