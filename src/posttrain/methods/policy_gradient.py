"""What the methods of policy gradients share: from settings to a plan. No method is known here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from posttrain.config import WatchConfig
from posttrain.data.account import Account
from posttrain.evaluation.reward_watch import Watch
from posttrain.inputs import ROLLOUTS
from posttrain.methods.episodes import refuse_task_reward
from posttrain.methods.objects import (
    TaskLike,
    components_of,
    rewards_of,
    rewards_text,
    task_of,
)
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
from posttrain.methods.watched import Watching
from posttrain.models.spec import ModelSpec
from posttrain.rewards.base import RewardSet
from posttrain.sources.collect import Prompt
from posttrain.sources.credit import Creditor
from posttrain.sources.episodes import EpisodeSampler
from posttrain.sources.rollouts import RolloutSource
from posttrain.sources.rows import DataSource, Singles
from posttrain.training.objective import Objective
from posttrain.training.plan import AdamW, Facts, Learner, Plan, Work, steps_of
from posttrain.training.reference_model import Reference
from posttrain.training.trust_region import check_trusted
from posttrain.types import Sampling, Task


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
    watching = Watching.of(s, prompt_task, sampling)

    def prepare(spec: ModelSpec, seed: int, steps: int | None) -> Work:
        if s.critic is not None:
            check_critic(spec, s.critic.model)
        if s.trust_region is not None:
            check_trusted(spec.config, spec.place)
        account = Account()
        prompts = _prompts(s, spec, prompt_task, sampling, account)
        mixed = _mixed(s, spec, account, seed)
        number = steps_of(steps, s.num_train_epochs, prompt_steps(prompts, s.batch_size))

        def source(learner: Learner) -> RolloutSource:
            episodes = None
            if s.episodes is not None:
                episodes = s.episodes.sampler(learner.model.tokenizer, prompt_task, s.limits)
            watch = watching.watch(reward_set, learner.model.tokenizer) if watching else None
            return _source(
                s, learner, prompts, reward_set, sampling, objective, mixed, episodes, watch, seed
            )

        return Work(
            steps=number,
            source=source,
            facts=_facts(prompt_task, prompts, s, objective, sampling, number),
            account=account,
            samples=True,
            notes=(watching.note,) if watching and watching.note else (),
            close=_closing(reward_set, watching),
        )

    return Plan(
        method=method,
        settings=settings,
        objective=objective,
        prepare=prepare,
        optimizer=optimizer,
        trust_region=s.trust_region,
        reference=Reference(needed=s.credit.kl_weight > 0 or bool(s.watch and s.watch.kl_every)),
        critic=s.critic,
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
    prompts: list[Prompt],
    reward_set: RewardSet,
    sampling: Sampling,
    objective: Objective,
    mixed: DataSource | None,
    episodes: EpisodeSampler | None,
    watch: Watch | None,
    seed: int,
) -> RolloutSource:
    model = learner.model
    collector = make_collector(
        model,
        prompts,
        reward_set,
        sampling,
        batch_size=s.batch_size,
        num_generations=s.num_generations,
        seed=seed,
        greedy="greedy_rewards" in s.advantage_inputs,
        max_resamples=s.max_resamples,
        given_steps=s.given_steps,
        episodes=episodes,
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
        watch=watch,
    )


def _closing(reward_set: RewardSet, watching: Watching | None) -> Callable[[], None]:
    """What releases all rewards."""

    def close() -> None:
        reward_set.close()
        if watching is not None:
            watching.close()

    return close


def _facts(
    task: Task,
    prompts: list[Prompt],
    s: PolicyGradient,
    objective: Objective,
    sampling: Sampling,
    steps: int,
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
    return [
        ("task", prompts_text(task, prompts)),
        *environment,
        ("rewards", rewards_text(s.rewards)),
        *([("watch", _watch_text(s.watch))] if s.watch is not None else []),
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


def _updates(number: int) -> str:
    return "1 update" if number == 1 else f"{number} updates"


def _watch_text(c: WatchConfig) -> str:
    """What is watched, as a check shows it."""
    names = ", ".join(item.name for item in components_of(c.gold))
    parts = [f"gold {names} (oracle: watched, never trained on)"] if names else []
    parts += [f"{len(c.probes) + len(c.texts)} probes every {c.probe_every}"] * bool(c.probe_every)
    parts += [f"ends on {', '.join(c.stop_on)}"] * bool(c.stop_on)
    return "; ".join(parts) or "length, repetition, answers"
