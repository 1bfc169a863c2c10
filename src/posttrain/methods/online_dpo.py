"""Preference optimisation on pairs that the policy writes itself and a reward judges."""

from __future__ import annotations

from dataclasses import dataclass

from posttrain.config import EngineLike, Limits, SamplingConfig
from posttrain.data.account import Account
from posttrain.errors import ConfigError
from posttrain.inputs import SAMPLED_PAIRS
from posttrain.methods.comparisons import losses_text
from posttrain.methods.engine import RolloutEngine
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
    prompts_text,
    sampling_of,
    sampling_text,
)
from posttrain.models.spec import ModelSpec
from posttrain.registry import methods
from posttrain.rewards.base import RewardSet
from posttrain.sources.preferences import PairSource, best_and_worst
from posttrain.training.objective import Objective
from posttrain.training.optim import Schedule
from posttrain.training.plan import AdamW, Learner, Plan, Work, steps_of
from posttrain.training.reference_model import Reference
from posttrain.types import Sampling, Task


@methods.register(trains="language")
def online_dpo(
    task: TaskLike,
    *,
    rewards: Rewards = ("task",),
    losses: Losses = ("dpo",),
    num_generations: int = 4,
    sampling: SamplingConfig = SamplingConfig(),
    engine: EngineLike = "embedded",
    batch_size: int = 16,
    num_train_epochs: float = 1.0,
    reference_every: int = 0,
    reference_mix: float = 1.0,
    learning_rate: float = 1e-6,
    lr_scheduler_type: Schedule = "constant_with_warmup",
    limits: Limits = Limits(),
) -> Plan:
    """Online DPO (arXiv 2402.04792): each step samples, rewards, and learns from the best against
    the worst completion of a prompt.

    Each step samples num_generations completions of batch_size prompts with the policy as it is,
    rewards them (the task's verifier, a judge, or any mix of rewards), and takes one update on the
    pairs of best and worst. Prompts whose rewards are all equal are skipped, and counted in
    pairs/skipped. The reference is the model of the start. With reference_every it becomes the
    policy of that moment each so many steps: iterative DPO.

    Args:
        task: its prompts, and what the reward "task" asks.
        rewards: names or functions, with weights.
        losses: any losses of pairs, with weights.
        num_generations: completions per prompt, at least 2.
        sampling: of the completions.
        engine: what samples: "embedded" is the trained model itself; servers (vLLM, SGLang) get
            its weights after each step.
        batch_size: prompts per step.
        num_train_epochs: passes over the prompts, where the number of steps is not set.
        reference_every: steps after which the reference moves; 0 = never.
        reference_mix: share of the policy in the reference when it moves.
        learning_rate: peak learning rate of the run.
        lr_scheduler_type: how the learning rate changes.
        limits: how much may fail or be dropped.
    """
    settings = dict(locals())
    _check(num_generations, sampling)
    objective = _objective(losses, sampling.temperature)
    reference = Reference(every=reference_every, mix=reference_mix)
    reference.check(objective)
    prompt_task = task_of(task)
    pairs = _OnlinePairs(
        prompt_task,
        sampling_of(sampling, prompt_task),
        rewards_of(rewards, prompt_task, limits),
        rewards_text(rewards),
        RolloutEngine(engine),
        objective,
        reference,
        limits,
        num_generations,
        batch_size,
        num_train_epochs,
    )
    return Plan(
        method="online_dpo",
        settings=settings,
        objective=objective,
        prepare=pairs.prepare,
        optimizer=AdamW(learning_rate, lr_scheduler_type),
        reference=reference,
    )


@dataclass(frozen=True, slots=True)
class _OnlinePairs:
    """What is sampled, rewarded and compared in each step."""

    task: Task
    sampling: Sampling
    rewards: RewardSet
    rewards_text: str
    sampler: RolloutEngine
    objective: Objective
    reference: Reference
    limits: Limits
    num_generations: int
    batch_size: int
    num_train_epochs: float

    def prepare(self, spec: ModelSpec, seed: int, steps: int | None) -> Work:
        """The work for a model."""
        self.reference.check_model(spec)
        self.sampler.check(spec)
        account = Account()
        prompts = encode_prompts(
            spec, self.task, self.sampling, limits=self.limits, account=account
        )
        per_epoch = prompt_steps(prompts, self.batch_size)
        number = steps_of(steps, self.num_train_epochs, per_epoch)

        def source(learner: Learner) -> PairSource:
            counts = self.batch_size, self.num_generations, seed
            engine = self.sampler.open(learner.model, self.sampling, learner.folder, learner.world)
            collector = make_collector(
                learner.model,
                prompts,
                self.rewards,
                self.sampling,
                *counts,
                engine,
                world=learner.world,
                served=self.sampler.is_served,
            )
            whole = self.objective.whole
            return PairSource(collector, best_and_worst, model=learner.model, whole=whole)

        every = self.reference.every
        moves = f", the reference moves every {every}" if every else ""
        return Work(
            steps=number,
            source=source,
            facts=[
                ("task", prompts_text(self.task, prompts)),
                *self.sampler.facts(),
                ("rewards", self.rewards_text),
                ("losses", losses_text(self.objective)),
                ("a step", _step_text(self.num_generations, self.batch_size, self.sampling)),
                ("steps", f"{number}{moves}"),
            ],
            account=account,
            samples=True,
            close=self.close,
        )

    def close(self) -> None:
        """Release engine and rewards."""
        self.sampler.close()
        self.rewards.close()


def _objective(losses: Losses, temperature: float) -> Objective:
    return Objective(
        components_of(losses),
        roles=("chosen", "rejected"),
        temperature=temperature,
        carries=SAMPLED_PAIRS,
    )


def _step_text(num_generations: int, batch_size: int, sampling: Sampling) -> str:
    return (
        f"best against worst of {num_generations} completions of {batch_size} prompts, "
        f"{sampling_text(sampling)}"
    )


def _check(num_generations: int, sampling: SamplingConfig) -> None:
    if num_generations < 2:
        raise ConfigError(
            f"num_generations: {num_generations} gives no pair; at least 2 (4 or 8 are usual)"
        )
    if sampling.temperature == 0:
        raise ConfigError(
            "sampling.temperature: 0 samples the same completion each time, so that there is no "
            "pair"
        )
