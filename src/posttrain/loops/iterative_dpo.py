"""Iterative preference optimisation: rounds of sampling, judging and DPO; the judge may be the
model itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from posttrain.config import Component, Limits, SamplingConfig
from posttrain.data.account import Account
from posttrain.engines.torch import TorchEngine
from posttrain.errors import ConfigError, DataError
from posttrain.inputs import SAMPLED_PAIRS
from posttrain.methods.comparisons import losses_text
from posttrain.methods.objects import (
    Losses,
    Rewards,
    TaskLike,
    components_of,
    rewards_of,
    rewards_text,
    task_of,
)
from posttrain.methods.prompts import (
    encode_prompts,
    make_collector,
    prompt_steps,
    sampling_of,
    sampling_text,
)
from posttrain.models.spec import ModelSpec
from posttrain.registry import methods
from posttrain.rewards.base import RewardSet
from posttrain.rewards.own_judge import EngineAhead, is_own_judge, judged_by
from posttrain.sources.collect import Collector, Prompt, Sampled
from posttrain.sources.preferences import PairSource, best_and_worst
from posttrain.training.objective import Objective
from posttrain.training.optim import Schedule
from posttrain.training.plan import (
    AdamW,
    Facts,
    Learner,
    Loop,
    Plan,
    PreparedLoop,
    Rounds,
    Work,
    check_positive,
)
from posttrain.training.rollout_rows import RolloutRow
from posttrain.types import Sampling, Task, TraceGroup


@methods.register(trains="language")
def iterative_dpo(
    task: TaskLike,
    *,
    rewards: Rewards = ("task",),
    losses: Losses = ("dpo",),
    num_rounds: int = 3,
    steps_per_round: int | None = None,
    num_generations: int = 4,
    sampling: SamplingConfig = SamplingConfig(),
    batch_size: int = 16,
    learning_rate: float = 1e-6,
    lr_scheduler_type: Schedule = "constant_with_warmup",
    limits: Limits = Limits(),
) -> Loop:
    """Iterative DPO: each round samples with the present model, rewards, and learns from the best
    against the worst completion of each prompt (arXiv 2404.19733, 2312.16682).

    Within a round model and reference of its start do not change what is sampled. Prompts whose
    rewards are all equal are skipped, and counted in pairs/skipped.
      Iterative DPO:            rewards: [task], or [{name: reward_model, path: ...}]
      Reasoning (2404.19733):   losses: [dpo, chosen_nll]
      Self-rewarding models (arXiv 2401.10020): rewards: [judge], which names no model: the judge is
      the model as the round starts, so that it judges better as it learns.

    Args:
        task: its prompts, and what the reward "task" asks.
        rewards: names or functions, with weights. A judge that names no path and no engine is the
            model itself.
        losses: losses of pairs, with weights.
        num_rounds: rounds of sampling and training.
        steps_per_round: updates per round; None = one pass over the prompts.
        num_generations: completions per prompt, at least 2.
        sampling: of the completions.
        batch_size: prompts per update.
        learning_rate: peak learning rate of the run.
        lr_scheduler_type: how the learning rate changes.
        limits: how much may fail or be dropped.
    """
    settings = dict(locals())
    check_positive(num_rounds=num_rounds, steps_per_round=steps_per_round)
    if num_generations < 2 or sampling.temperature == 0:
        raise ConfigError(
            f"num_generations: {num_generations} completions at temperature "
            f"{sampling.temperature:g} give no pair; take at least 2, and a temperature above 0"
        )
    roles = ("chosen", "rejected")
    objective = Objective(components_of(losses), roles=roles, carries=SAMPLED_PAIRS)
    optimizer = AdamW(learning_rate, lr_scheduler_type)
    prompt_task = task_of(task)
    rounds_of_pairs = _Pairs(
        prompt_task,
        components_of(rewards),
        sampling_of(sampling, prompt_task),
        objective,
        optimizer,
        num_rounds,
        steps_per_round,
        num_generations,
        batch_size,
        limits,
    )
    rounds_of_pairs.reward_set(EngineAhead()).close()
    return Loop(
        method="iterative_dpo",
        settings=settings,
        prepare=rounds_of_pairs.prepare,
        optimizer=optimizer,
    )


@dataclass(frozen=True, slots=True)
class _Pairs:
    """What is sampled, rewarded and compared in each round."""

    task: Task
    rewards: list[Component]
    sampling: Sampling
    objective: Objective
    optimizer: AdamW
    num_rounds: int
    steps_per_round: int | None
    num_generations: int
    batch_size: int
    limits: Limits

    def reward_set(self, engine: Any) -> RewardSet:
        """The rewards, with `engine` as the judge that names no model."""
        return rewards_of(judged_by(self.rewards, engine), self.task, self.limits)

    def prepare(self, spec: ModelSpec, seed: int, steps: int | None) -> PreparedLoop:
        """The loop for a model."""
        account = Account()
        prompts = encode_prompts(
            spec, self.task, self.sampling, limits=self.limits, account=account
        )
        share = self.steps_per_round or prompt_steps(prompts, self.batch_size)
        number = steps or self.num_rounds * share
        # A judge of its own holds the engine of one model; any other set serves all rounds.
        has_own = any(map(is_own_judge, self.rewards))
        shared = None if has_own else self.reward_set(EngineAhead())
        collector = partial(self._collector, prompts, shared, seed)

        def run(rounds: Rounds) -> None:
            """All rounds, or those that are left."""
            while rounds.step < number:
                end = min(rounds.step + share, number)
                rows = rounds.rows(partial(_sampled, collector, end))
                rounds.fit(self._plan(collector, rows), steps=end - rounds.step)

        return PreparedLoop(
            steps=number,
            run=run,
            facts=self._facts(len(prompts), share, number),
            account=account,
            prompts=prompts,
            close=shared.close if shared is not None else lambda: None,
        )

    def _facts(self, num_prompts: int, share: int, number: int) -> Facts:
        judges = [r.name for r in self.rewards if is_own_judge(r)]
        own = [("judge", f"the model itself, by {', '.join(judges)}")] if judges else []
        completions = f"{self.num_generations} completions of {self.batch_size} prompts"
        return [
            ("task", f"{self.task.name}: {num_prompts} prompts"),
            ("rewards", rewards_text(self.rewards)),
            *own,
            ("losses", losses_text(self.objective)),
            ("a step", f"best against worst of {completions}, {sampling_text(self.sampling)}"),
            ("steps", f"{number}, in rounds of {share}"),
        ]

    def _collector(
        self, prompts: Sequence[Prompt], shared: RewardSet | None, seed: int, model: Any
    ) -> Collector:
        rewards = self.reward_set(TorchEngine(model)) if shared is None else shared
        counts = self.batch_size, self.num_generations, seed
        return make_collector(model, prompts, rewards, self.sampling, *counts)

    def _plan(self, collector: Callable[[Any], Collector], rows: Sequence[RolloutRow]) -> Plan:
        """The plan of a round: pairs that are there already. Its reference is the model as the
        round starts.
        """
        groups: dict[int, list[TraceGroup]] = {}
        for row in rows:
            groups.setdefault(row.step, []).append(row.group)
        whole = self.objective.whole

        def source(learner: Learner) -> PairSource:
            sampled = Sampled(collector(learner.model), groups)
            return PairSource(sampled, best_and_worst, model=learner.model, whole=whole)

        def prepare(spec: ModelSpec, seed: int, steps: int | None) -> Work:
            assert steps is not None  # a loop says how many a round has
            return Work(steps=steps, source=source, facts=[], samples=True)

        return Plan(
            method="dpo", objective=self.objective, prepare=prepare, optimizer=self.optimizer
        )


def _sampled(
    collector: Callable[[Any], Collector], end: int, rounds: Rounds, rows: list[RolloutRow]
) -> list[RolloutRow]:
    """The rewarded completions for the steps of the round, up to `end`.

    Args:
        rows: those of earlier steps, where the round was shorter before.

    Raises:
        DataError: the rewards of every prompt's completions tie.
    """
    done = {row.step for row in rows}
    missing = [step for step in range(rounds.step, end) if step not in done]
    if not missing:
        return rows
    sampler = collector(rounds.model)
    for step in missing:
        for group in sampler.collect(step):
            pair = best_and_worst(group)
            rows = [*rows, RolloutRow(step, group, () if pair is None else (0,))]
    if not any(row.selected for row in rows):
        raise DataError(
            f"iterative_dpo: in round {rounds.number + 1} the rewards of every prompt's "
            "completions tie, and no pair can be made; take other rewards, or raise "
            "num_generations"
        )
    return rows
