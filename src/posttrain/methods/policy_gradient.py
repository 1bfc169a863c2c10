"""What the methods of policy gradients share: from settings to a plan. No method is known here."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from functools import partial
from typing import Any

from posttrain.config import OverlapConfig, ServedConfig
from posttrain.data.account import Account
from posttrain.engines.base import Engine
from posttrain.errors import ConfigError
from posttrain.inputs import ROLLOUTS
from posttrain.methods.engine import RolloutEngine
from posttrain.methods.episodes import refuse_task_reward
from posttrain.methods.objects import TaskLike, rewards_of, rewards_text, task_of
from posttrain.methods.policy_checks import check, check_numbers
from posttrain.methods.policy_settings import PolicyGradient
from posttrain.methods.prompts import (
    check_critic,
    encode_prompts,
    make_collector,
    prompt_steps,
    prompts_text,
    sampling_of,
    with_gold,
)
from posttrain.methods.sft import encode_examples
from posttrain.models.spec import ModelSpec
from posttrain.rewards.base import RewardSet
from posttrain.sources.collect import Prompt
from posttrain.sources.credit import Creditor
from posttrain.sources.overlap import OverlappedCollector
from posttrain.sources.rollouts import RolloutSource
from posttrain.sources.rows import DataSource, Singles
from posttrain.training.objective import Objective
from posttrain.training.plan import AdamW, Facts, Learner, Plan, Work, steps_of
from posttrain.training.reference_model import Reference
from posttrain.training.trust_region import check_trusted
from posttrain.types import Sampling, Task
from posttrain.world import World


def policy_gradient_plan(
    method: str,
    settings: Mapping[str, Any],
    task: TaskLike,
    s: PolicyGradient,
    optimizer: AdamW,
) -> Plan:
    """Check the settings and make the plan.

    Raises:
        ConfigError: a combination that cannot work.
    """
    prompt_task = task_of(task)
    sampling = sampling_of(s.sampling, prompt_task)
    check(s, sampling)
    if s.episodes is not None:
        refuse_task_reward(s.rewards, prompt_task)
    reward_set = rewards_of(s.rewards, prompt_task, s.limits)
    check_numbers(s, reward_set)
    objective = _objective(s, sampling)
    sampler = RolloutEngine(s.engine, s.overlap)

    return Plan(
        method=method,
        settings=settings,
        objective=objective,
        prepare=partial(_prepare, s, prompt_task, sampling, reward_set, objective, sampler),
        optimizer=optimizer,
        trust_region=s.trust_region,
        reference=Reference(needed=s.credit.kl_weight > 0),
        critic=s.critic,
    )


def _prepare(
    s: PolicyGradient,
    prompt_task: Task,
    sampling: Sampling,
    reward_set: RewardSet,
    objective: Objective,
    sampler: RolloutEngine,
    spec: ModelSpec,
    seed: int,
    steps: int | None,
) -> Work:
    """The work for a model."""
    if s.critic is not None:
        check_critic(spec, s.critic.model)
    if s.trust_region is not None:
        check_trusted(spec.config, spec.place)
    sampler.check(spec)
    _check_alone(s)
    account = Account()
    prompts = _prompts(s, spec, prompt_task, sampling, account)
    mixed = _mixed(s, spec, account, seed)
    number = steps_of(steps, s.num_train_epochs, prompt_steps(prompts, s.batch_size))
    closing = contextlib.ExitStack()
    closing.callback(reward_set.close)
    closing.callback(sampler.close)

    def source(learner: Learner) -> RolloutSource:
        engine = sampler.open(learner.model, sampling, learner.folder, learner.world)
        made = _source(
            s,
            learner,
            prompt_task,
            prompts,
            reward_set,
            sampling,
            objective,
            mixed,
            seed,
            engine,
        )
        closing.callback(made.close)
        return made

    return Work(
        steps=number,
        source=source,
        facts=_facts(prompt_task, prompts, s, objective, sampling, number, sampler.facts()),
        account=account,
        samples=True,
        close=closing.close,
        notes=_notes(s),
    )


def _objective(s: PolicyGradient, sampling: Sampling) -> Objective:
    return Objective(
        s.losses,
        aggregation="sequence_mean",
        max_length=s.episodes.max_length(sampling) if s.episodes else sampling.max_tokens,
        temperature=sampling.temperature,
        groups=s.compares_groups,
        measure_idle=s.measure_tied_groups,
        carries=ROLLOUTS,
        marks={"given"} if s.mixes or s.given_steps else (),
    )


def _mixed(s: PolicyGradient, spec: ModelSpec, account: Account, seed: int) -> DataSource | None:
    """Rows that are learnt beside the rollouts."""
    if not s.mixes:
        return None
    encoded = encode_examples(spec, s.mix_data, s.mix_task, account, s.limits, key="mix_data")
    return DataSource(Singles(encoded.sequences), batch_size=s.mix_batch_size, seed=seed)


def _prompts(
    s: PolicyGradient, spec: ModelSpec, task: Task, sampling: Sampling, account: Account
) -> list[Prompt]:
    """What the traces begin with."""
    if s.episodes is not None:
        s.episodes.check(spec, task)
        return s.episodes.prompts(task)
    prompts = encode_prompts(spec, task, sampling, limits=s.limits, account=account)
    return with_gold(spec, prompts, task) if s.given_steps else prompts


def _source(
    s: PolicyGradient,
    learner: Learner,
    task: Task,
    prompts: list[Prompt],
    reward_set: RewardSet,
    sampling: Sampling,
    objective: Objective,
    mixed: DataSource | None,
    seed: int,
    engine: Engine,
) -> RolloutSource:
    model, overlap = learner.model, s.overlap
    episodes = s.episodes and s.episodes.sampler(model.tokenizer, task, s.limits)
    collector = make_collector(
        model,
        prompts,
        reward_set,
        sampling,
        batch_size=s.batch_size,
        num_generations=s.num_generations,
        seed=seed,
        engine=engine,
        greedy="greedy_rewards" in s.advantage_inputs,
        max_resamples=s.max_resamples,
        given_steps=s.given_steps,
        episodes=episodes,
        world=learner.world,
        served=isinstance(s.engine, ServedConfig),
    )
    if overlap is not None and overlap.max_staleness:
        collector = OverlappedCollector(
            collector,
            max_staleness=overlap.max_staleness,
            in_flight=overlap.in_flight,
            keeps_stale=overlap.stale == "keep",
            last=learner.last_step,
        )
    credit = Creditor(
        s.advantage,
        s.credit,
        asked=s.loss_inputs,
        reward_weights=reward_set.weights,
        token_text=lambda i: model.tokenizer.decode([i], skip_special_tokens=True),
        keep_old=s.num_iterations * s.num_minibatches > 1 or s.trust_region is not None,
    )
    return RolloutSource(
        collector,
        model=model,
        credit=credit,
        num_iterations=s.num_iterations,
        num_minibatches=s.num_minibatches,
        mask_truncated=s.mask_truncated,
        drop_duplicates=s.drop_duplicates,
        whole=objective.whole,
        learns=objective.learns,
        max_tokens=learner.max_tokens,
        mixed=mixed,
        world=learner.world,
    )


def _check_alone(s: PolicyGradient) -> None:
    """Refuse sampling ahead in several processes that train together.

    Raises:
        ConfigError: names the setting.
    """
    if s.overlap is None or not s.overlap.max_staleness or World.here().size == 1:
        return
    raise ConfigError(
        f"overlap: {World.here().size} processes train together, and rollouts that are ahead are "
        "sampled for one; set overlap.max_staleness to 0, or train in one process"
    )


def _notes(s: PolicyGradient) -> tuple[str, ...]:
    """What is printed when the training starts."""
    if s.overlap is None or not s.overlap.max_staleness or s.corrects:
        return ()
    return (
        "overlap: nothing corrects for tokens of older weights; credit.importance_correction or "
        "credit.rejection does",
    )


def _facts(
    task: Task,
    prompts: list[Prompt],
    s: PolicyGradient,
    objective: Objective,
    sampling: Sampling,
    steps: int,
    engine: Facts,
) -> Facts:
    completions = s.batch_size * s.num_generations
    update = "AdamW"
    if s.trust_region is not None:
        update = f"trust region of {s.trust_region.max_kl:g} nats"
    losses = ", ".join(
        f"{t.name} ({t.aggregation if t.per == 'token' else t.per}) x {t.weight:g}"
        for t in objective.terms
    )
    environment = [] if s.episodes is None else [("environment", s.episodes.text())]
    overlap = [] if s.overlap is None else [("sampling", _overlap_text(s.overlap))]
    return [
        ("task", prompts_text(task, prompts)),
        *environment,
        *engine,
        *overlap,
        ("rewards", rewards_text(s.rewards)),
        ("advantage", s.advantage.name + (" (with a critic)" if s.critic is not None else "")),
        ("losses", losses),
        (
            "a step",
            f"{completions} completions of at most {sampling.max_tokens} tokens, temperature "
            f"{sampling.temperature:g}, "
            f"{_updates(s.num_iterations * s.num_minibatches)} by {update}",
        ),
        ("steps", str(steps)),
    ]


def _overlap_text(overlap: OverlapConfig) -> str:
    if not overlap.max_staleness:
        return "in another process, in turn with the training"
    behind = _updates(overlap.max_staleness)
    how = ", weights updated in flight" if overlap.in_flight else ""
    return f"in another process, at most {behind} behind the training{how}"


def _updates(number: int) -> str:
    return "1 update" if number == 1 else f"{number} updates"
