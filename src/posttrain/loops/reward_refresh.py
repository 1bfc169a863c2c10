"""Reinforcement learning whose reward model is trained again on what the policy has become."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from posttrain.config import ComponentLike, CreditConfig, Limits, SamplingConfig
from posttrain.data.account import Account
from posttrain.data.templates import as_messages
from posttrain.errors import ConfigError, DataError
from posttrain.methods.fit import fit
from posttrain.methods.grpo import grpo
from posttrain.methods.objects import (
    Losses,
    ModelLike,
    Rewards,
    TaskLike,
    model_of,
    rewards_of,
    task_of,
)
from posttrain.methods.prompts import encode_prompts, make_collector, sampling_of, sampling_text
from posttrain.methods.reward_model import reward_model as reward_model_plan
from posttrain.models.spec import ModelSpec
from posttrain.registry import methods
from posttrain.rewards.base import RewardSet, as_completion
from posttrain.training.optim import Schedule
from posttrain.training.plan import AdamW, Loop, Plan, PreparedLoop, Rounds, check_positive
from posttrain.training.rollout_rows import RolloutRow
from posttrain.types import Sampling, Task

FOLDER = "reward_model"
"""Folder of a round's reward model, below that of the round."""


@methods.register(trains="language")
def reward_refresh(
    task: TaskLike,
    *,
    reward_model: ModelLike,
    labels: Rewards = ("task",),
    num_rounds: int = 3,
    steps_per_round: int = 20,
    prompts_per_round: int | None = 64,
    num_labelled: int = 8,
    accumulate: bool = True,
    reward_steps: int = 30,
    reward_batch_size: int = 16,
    reward_learning_rate: float = 1e-4,
    losses: Losses = ({"name": "clipped", "aggregation": "sequence_mean"},),
    advantage: ComponentLike = "group_mean",
    credit: CreditConfig = CreditConfig(),
    num_generations: int = 8,
    sampling: SamplingConfig = SamplingConfig(),
    batch_size: int = 8,
    learning_rate: float = 1e-6,
    lr_scheduler_type: Schedule = "constant_with_warmup",
    limits: Limits = Limits(),
) -> Loop:
    """Iterative reinforcement learning from labels (Bai et al., arXiv 2204.05862, section 4.5): a
    reward model that is only right near the policy it was trained on is trained again before it is
    hacked.

    Each round
      1. samples num_labelled completions of prompts_per_round prompts with the present policy;
      2. labels them by the rewards `labels` (a verifier, a judge, a person's verdicts), and makes
         a pair of the best and the worst of each prompt whose labels differ;
      3. trains a reward model on the pairs of all rounds, each time from the same start;
      4. takes steps_per_round steps of GRPO against it.
    A reference, where losses ask for one, is the policy at the start of the round.

    Args:
        task: its prompts, and what the reward "task" asks.
        reward_model: the model that each reward model starts from.
        labels: rewards that label samples. Nothing else in a round reads them.
        num_rounds: number of rounds.
        steps_per_round: policy updates per round.
        prompts_per_round: prompts that are labelled per round; None = all.
        num_labelled: labelled completions per prompt.
        accumulate: train on the pairs of all rounds, not on those of the last alone.
        reward_steps: updates of each reward model.
        reward_batch_size: pairs per update of the reward model.
        reward_learning_rate: of the reward model.
        losses: policy losses, with weights and averages.
        advantage: the estimator of advantages.
        credit: what is done to rewards and advantages beside estimating.
        num_generations: completions per prompt of a policy update.
        sampling: of all completions.
        batch_size: prompts per policy update.
        learning_rate: peak learning rate of the policy.
        lr_scheduler_type: how it changes over all rounds.
        limits: how much may fail or be dropped.
    """
    settings = dict(locals())
    counts = {"num_rounds": num_rounds, "steps_per_round": steps_per_round}
    check_positive(**counts, prompts_per_round=prompts_per_round, reward_steps=reward_steps)
    if num_labelled < 2:
        raise ConfigError(
            f"num_labelled: {num_labelled} gives no pair of completions; set it to at least 2"
        )
    prompt_task = task_of(task)
    estimating = {"losses": losses, "advantage": advantage, "credit": credit}
    drawn = {"num_generations": num_generations, "sampling": sampling, "batch_size": batch_size}
    learning = {"learning_rate": learning_rate, "lr_scheduler_type": lr_scheduler_type}
    shared: dict[str, Any] = {**estimating, **drawn, **learning, "limits": limits}
    policy = functools.partial(grpo, prompt_task, **shared)
    policy(rewards=labels)  # refuses its settings now, and not in the first round
    base = model_of(reward_model)
    assert base is not None
    refresh = _Refresh(
        task=prompt_task,
        labels=rewards_of(labels, prompt_task, limits),
        sampling=sampling_of(sampling, prompt_task),
        scores=_Scores(base, reward_steps, reward_batch_size, reward_learning_rate),
        policy=policy,
        num_rounds=num_rounds,
        steps_per_round=steps_per_round,
        prompts_per_round=prompts_per_round,
        num_labelled=num_labelled,
        accumulate=accumulate,
        limits=limits,
    )
    return Loop(
        method="reward_refresh",
        settings=settings,
        prepare=refresh.prepare,
        optimizer=AdamW(learning_rate, lr_scheduler_type),
    )


@dataclass(frozen=True, slots=True)
class _Scores:
    """How the reward model of a round is trained."""

    base: ModelSpec
    steps: int
    batch_size: int
    learning_rate: float

    def train(self, pairs: list[dict[str, Any]], rounds: Rounds, seed: int) -> Any:
        """The reward model of the round at hand: read where it is there, else trained."""
        folder = None if rounds.path is None else rounds.path / FOLDER
        plan = reward_model_plan(
            pairs, learning_rate=self.learning_rate, batch_size=self.batch_size
        )
        result = fit(
            self.base,
            plan,
            steps=self.steps,
            output=folder,
            resume=folder is not None and (folder / "recipe.yaml").exists(),
            seed=seed + rounds.number,
            console=rounds.console,
            save_final=False,
        )
        return result.model


@dataclass(frozen=True, slots=True, kw_only=True)
class _Refresh:
    """The loop, checked, before there is a model."""

    task: Task
    labels: RewardSet
    sampling: Sampling
    scores: _Scores
    policy: Callable[..., Plan]
    num_rounds: int
    steps_per_round: int
    prompts_per_round: int | None
    num_labelled: int
    accumulate: bool
    limits: Limits

    def prepare(self, spec: ModelSpec, seed: int, steps: int | None) -> PreparedLoop:
        """The loop for a model."""
        account = Account()
        prompts = encode_prompts(
            spec, self.task, self.sampling, limits=self.limits, account=account
        )
        number = steps or self.num_rounds * self.steps_per_round
        size = min(self.prompts_per_round or len(prompts), len(prompts))

        def labelled(rounds: Rounds, rows: list[RolloutRow]) -> list[RolloutRow]:
            """What the round has labelled: the rows of its file, or new ones."""
            if rows:
                return rows
            draws = int(np.random.default_rng((seed, 13)).integers(2**31))
            collector = make_collector(
                rounds.model, prompts, self.labels, self.sampling, size, self.num_labelled, draws
            )
            return [RolloutRow(rounds.step, group) for group in collector.collect(rounds.number)]

        def run(rounds: Rounds) -> None:
            """All rounds, or those that are left."""
            pairs: list[dict[str, Any]] = []
            while rounds.step < number:
                groups = [row.group for row in rounds.rows(labelled)]
                new = comparisons(groups, self.task.system)
                pairs = [*(pairs if self.accumulate else []), *new]
                refuse_no_pairs(pairs, rounds.number)
                scores = self.scores.train(pairs, rounds, seed)
                plan = self.policy(rewards=[{"name": "reward_model", "model": scores}])
                rounds.fit(plan, steps=min(self.steps_per_round, number - rounds.step))

        sampled = f"{self.num_labelled} labelled completions of {size} prompts"
        updates = f"{self.scores.steps} updates of a reward model; then {self.steps_per_round}"
        return PreparedLoop(
            steps=number,
            run=run,
            facts=[
                ("task", f"{self.task.name}: {len(prompts)} prompts"),
                ("a round", f"{sampled}, {sampling_text(self.sampling)}; {updates} of the policy"),
                ("labels", ", ".join(self.labels.names)),
                ("steps", f"{number}, {self.num_rounds} rounds"),
            ],
            account=account,
            prompts=prompts,
            close=self.labels.close,
        )


def refuse_no_pairs(pairs: Sequence[Any], number: int) -> None:
    """Refuse a round that has nothing to train a reward model on.

    Raises:
        DataError: says why.
    """
    if not pairs:
        raise DataError(
            f"reward_refresh: in round {number + 1} the labels of every prompt's completions tie, "
            "and no pair can be made; take other labels, or raise num_labelled"
        )


def comparisons(groups: Sequence[Any], system: str | None = None) -> list[dict[str, Any]]:
    """A pair of each group whose rewards differ: the first of the best, the first of the worst."""
    pairs = []
    for group in groups:
        rewarded = [t for t in group.traces if t.reward is not None]
        if not rewarded:
            continue
        best = max(rewarded, key=lambda t: t.reward)
        worst = min(rewarded, key=lambda t: t.reward)
        if best.reward > worst.reward:
            prompt = as_messages(group.example.prompt, system)
            chosen, rejected = (as_completion(prompt, t.text) for t in (best, worst))
            pairs.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    return pairs
