"""What the methods of policy gradients share: from settings to a source, an objective and a
job. No method is known here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from posttrain import registry
from posttrain.config import (
    Component,
    CreditConfig,
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    TrustRegionConfig,
)
from posttrain.data.stream import DataSource, Singles
from posttrain.errors import ConfigError
from posttrain.losses.inputs import LABEL_INPUTS, TEACHER_INPUTS
from posttrain.methods.evaluating import evaluate_model, evaluation_hooks
from posttrain.methods.prompting import (
    check_critic,
    context_length,
    encode_prompts,
    make_collector,
    make_rewards,
    with_gold,
)
from posttrain.methods.run import Run, TrainingJob
from posttrain.methods.sft import encode_examples
from posttrain.models.language_model import LanguageModel
from posttrain.rewards.base import RewardSet
from posttrain.rollouts.collect import Prompt
from posttrain.rollouts.credit import Creditor
from posttrain.rollouts.source import RolloutSource
from posttrain.training.hooks import RolloutWriter, first_rollout
from posttrain.training.objective import Objective
from posttrain.training.trust_region import TrustRegion, check_trusted
from posttrain.types import Sampling, Task


@dataclass(frozen=True, slots=True)
class PolicyGradient:
    """Settings of a policy-gradient method; what each is stands in the methods' own docstrings."""

    rewards: list[Component]
    losses: list[Component]
    advantage: Component
    credit: CreditConfig
    num_generations: int
    batch_size: int
    num_iterations: int
    num_minibatches: int
    mask_truncated: bool
    max_resamples: int
    drop_duplicates: bool = False
    trust_region: TrustRegionConfig | None = None
    with_critic: bool = False
    critic: ModelConfig | None = None
    critic_learning_rate: float | None = None
    mix_data: DataConfig | None = None
    mix_task: Component | None = None
    mix_batch_size: int = 8
    given_steps: int = 0
    measure_tied_groups: bool = True

    @property
    def loss_inputs(self) -> set[str]:
        """What the losses ask for."""
        return {name for c in self.losses for name in registry.losses.entry(c.name).inputs}

    @property
    def advantage_inputs(self) -> tuple[str, ...]:
        """What the estimator asks for."""
        return registry.advantages.entry(self.advantage.name).inputs

    @property
    def mixes(self) -> bool:
        """Whether every update also learns from rows."""
        return self.mix_data is not None or self.mix_task is not None

    @property
    def compares_groups(self) -> bool:
        """Whether a loss compares the completions of a prompt."""
        return any(registry.losses.entry(c.name).result == "PerGroup" for c in self.losses)


def make_job(
    run: Run,
    task: Task,
    sampling: Sampling,
    s: PolicyGradient,
    evaluation: EvaluationConfig | None = None,
) -> TrainingJob:
    """Check the settings and prepare a job.

    Raises:
        ConfigError: a combination that cannot work, before any weights are loaded.
    """
    check(s, sampling)
    if s.with_critic:
        check_critic(run, s.critic)
    if s.trust_region is not None:
        check_trusted(run.model_config, run.model_path)
    prompts = encode_prompts(run, task, sampling)
    if s.given_steps:
        prompts = with_gold(run, prompts, task)
    rows = (
        encode_examples(run, s.mix_data, s.mix_task, context_length(run), key="mix_data").sequences
        if s.mixes
        else []
    )
    reward_set = make_rewards(run, s.rewards, task)
    reward_set.self_test(task.examples)
    objective = Objective(
        s.losses,
        aggregation="sequence_mean",
        max_length=sampling.max_tokens,
        temperature=sampling.temperature,
        groups=s.compares_groups,
        measure_idle=s.measure_tied_groups,
        marks={"given"} if s.mixes or s.given_steps else (),
        lacks=LABEL_INPUTS | TEACHER_INPUTS | {"step", "scores"},
    )
    _check_numbers(s, reward_set)
    steps = run.steps_for(max(len(prompts) // min(s.batch_size, len(prompts)), 1))

    def load(last: Path | None) -> LanguageModel:
        model = run.load_model(
            reference=objective.needs_reference or s.credit.kl_weight > 0, weights=last
        )
        if s.with_critic:
            critic = s.critic or replace(run.model_config, lora=None)
            run.add_critic(model, critic, learning_rate=s.critic_learning_rate, last=last)
        return model

    def make_source(model: Any) -> RolloutSource:
        collector = make_collector(
            run,
            model,
            prompts,
            reward_set,
            sampling,
            batch_size=s.batch_size,
            num_generations=s.num_generations,
            greedy="greedy_rewards" in s.advantage_inputs,
            max_resamples=s.max_resamples,
            given_steps=s.given_steps,
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
            max_tokens=run.micro_batch_tokens(model),
            mixed=DataSource(Singles(rows), batch_size=s.mix_batch_size, seed=run.recipe.seed)
            if rows
            else None,
        )

    execute = _execution(run, s, objective, steps, load, make_source, reward_set, evaluation)
    return TrainingJob(_facts(task, prompts, s, objective, sampling, steps), execute)


def _execution(
    run: Run,
    s: PolicyGradient,
    objective: Objective,
    steps: int,
    load: Callable[[Path | None], LanguageModel],
    make_source: Callable[[Any], RolloutSource],
    reward_set: RewardSet,
    evaluation: EvaluationConfig | None,
) -> Callable[[], None]:
    region: list[TrustRegion] = []

    def make_optimizer(model: Any, usual: Any) -> Any:
        if s.trust_region is None:
            return usual
        region.append(
            TrustRegion(
                model,
                objective,
                s.trust_region,
                rest=usual,
                max_tokens=run.micro_batch_tokens(model),
            )
        )
        return region[0]

    def make_hooks(model: Any, source: Any) -> list[Any]:
        writer = RolloutWriter(
            run.folder / "rollouts.jsonl", lambda: source.groups, resume_step=run.resume_step
        )
        return [*(r.tell for r in region), writer, *evaluation_hooks(run, model, evaluation, steps)]

    def execute() -> None:
        try:
            model = run.train(
                make_source,
                objective,
                steps=steps,
                load=load,
                make_hooks=make_hooks,
                show=first_rollout,
                make_optimizer=make_optimizer,
            )
        finally:
            reward_set.close()
        evaluate_model(run, model, evaluation)

    return execute


def _facts(
    task: Task,
    prompts: list[Prompt],
    s: PolicyGradient,
    objective: Objective,
    sampling: Sampling,
    steps: int,
) -> list[tuple[str, str]]:
    lengths = [len(p.ids) for p in prompts]
    completions = s.batch_size * s.num_generations
    update = (
        "AdamW" if s.trust_region is None else f"trust region of {s.trust_region.max_kl:g} nats"
    )
    return [
        ("task", f"{task.name}: {len(prompts)} prompts of {min(lengths)} to {max(lengths)} tokens"),
        (
            "rewards",
            ", ".join(f"{c.name} x {c.weight:g}" for c in s.rewards) + " (self-test passed)",
        ),
        ("advantage", s.advantage.name + (" (with a critic)" if s.with_critic else "")),
        (
            "losses",
            ", ".join(
                f"{t.name} ({t.aggregation if t.per == 'token' else t.per}) x {t.weight:g}"
                for t in objective.terms
            ),
        ),
        (
            "a step",
            f"{completions} completions of at most {sampling.max_tokens} tokens, temperature "
            f"{sampling.temperature:g}, "
            f"{s.num_iterations * s.num_minibatches} updates by {update}",
        ),
        ("steps", str(steps)),
    ]


def check(s: PolicyGradient, sampling: Sampling) -> None:
    """Refuse combinations that cannot work.

    Raises:
        ConfigError: names the setting, the rule and the way out.
    """
    for name in ("num_generations", "num_iterations", "num_minibatches"):
        if getattr(s, name) < 1:
            raise ConfigError(f"{name}: {getattr(s, name)} must be at least 1")
    if s.num_minibatches > s.batch_size:
        raise ConfigError(
            f"num_minibatches: {s.num_minibatches} is more than the {s.batch_size} prompts of a "
            "step"
        )
    if sampling.temperature == 0:
        raise ConfigError(
            "sampling.temperature: 0 writes the same completion every time, and nothing is learnt "
            "from its reward (a greedy "
            "baseline samples its own greedy completion); set it above 0"
        )
    if s.num_generations < 2 and (s.compares_groups or s.max_resamples):
        what = (
            "a loss that compares a prompt's completions"
            if s.compares_groups
            else "max_resamples (groups whose rewards tie)"
        )
        raise ConfigError(
            f"num_generations: 1 gives no group to compare with, which {what} needs; set it to at "
            "least 2"
        )
    if s.trust_region is not None:
        _check_trust_region(s.trust_region)
    _check_critic(s)
    _check_credit(s, sampling)
    _check_given(s)
    registry.advantages.check(s.advantage.name, s.advantage.settings, "advantage")
    per_token = "token_rewards" in s.advantage_inputs
    for item in s.losses:
        level = item.settings.get("level", "token")
        if (
            per_token
            and level in ("sequence", "sequence_sum")
            and item.name not in ("kl_corrected",)
        ):
            raise ConfigError(
                f"losses: {item.name!r} with level {level} gives a sequence one ratio, but "
                f"{s.advantage.name!r} gives each "
                "token its own advantage; use level: sequence_token (of clipped) or token"
            )


def _check_trust_region(c: TrustRegionConfig) -> None:
    if (
        c.max_kl <= 0
        or c.damping < 0
        or c.num_solves < 1
        or c.num_backtracks < 1
        or not 0 < c.shrink < 1
    ):
        raise ConfigError(
            f"trust_region: max_kl {c.max_kl} must be above 0, damping {c.damping} not negative, "
            f"num_solves {c.num_solves} and "
            f"num_backtracks {c.num_backtracks} at least 1, and shrink {c.shrink} between 0 and 1"
        )


def _check_critic(s: PolicyGradient) -> None:
    if s.critic_learning_rate is not None and s.critic_learning_rate <= 0:
        raise ConfigError(
            f"critic_learning_rate: {s.critic_learning_rate} must be above 0; leave it out to "
            "take the policy's"
        )
    asking = "values" in s.advantage_inputs
    if asking and not s.with_critic:
        raise ConfigError(
            f"advantage: {s.advantage.name!r} needs a critic; use method ppo, or an estimator "
            "that compares rewards"
        )
    trained = "values" in s.loss_inputs
    if trained and not s.with_critic:
        raise ConfigError(
            "losses: 'value' trains a critic, which this method has not; use method ppo"
        )
    if s.with_critic and not asking:
        raise ConfigError(
            f"advantage: {s.advantage.name!r} makes no use of the critic; use gae or n_step, or "
            "method grpo"
        )
    if s.with_critic and not trained:
        raise ConfigError("losses: nothing trains the critic; add {name: value, weight: 0.5}")


def _check_credit(s: PolicyGradient, sampling: Sampling) -> None:
    c = s.credit
    if c.kl_weight < 0 or (c.kl_target is not None and (c.kl_target <= 0 or not c.kl_weight)):
        raise ConfigError(
            "credit: kl_weight must not be negative, and kl_target above 0 with a kl_weight to "
            "start from"
        )
    if c.kl_weight and s.advantage.name == "group_process":
        raise ConfigError(
            "credit.kl_weight: group_process normalises the rewards of steps, among which KL is "
            "none; add {name: kl} to losses"
        )
    if c.kl_weight and "reward_table" in s.advantage_inputs:
        raise ConfigError(
            "credit.kl_weight: gdpo normalises each reward function, among which KL is none; add "
            "{name: kl} to losses"
        )
    steps = [r.name for r in s.rewards if "list[list[" in registry.rewards.entry(r.name).returns]
    if s.advantage.name == "group_process" and not steps:
        raise ConfigError(
            "advantage: group_process needs a reward that judges steps: process_model (a trained "
            "process model), "
            "arithmetic_steps, or one of your own that is declared -> list[list[float]]"
        )
    if not 0 < c.top_entropy <= 1:
        raise ConfigError(
            f"credit.top_entropy: {c.top_entropy} must be above 0 and at most 1, the share of "
            "tokens that learn"
        )
    if c.importance_clip_max <= 0:
        raise ConfigError(
            f"credit.importance_clip_max: {c.importance_clip_max} must be above 0, the largest "
            "weight of a token"
        )
    if c.reward_clip is not None and (steps or "reward_table" in s.advantage_inputs):
        raise ConfigError(
            "credit.reward_clip bounds the reward of a whole completion; rewards of steps, and "
            "gdpo's of each function, are "
            "taken as they are, so leave it out"
        )
    if c.reward_clip is not None and (
        len(c.reward_clip) != 2 or c.reward_clip[0] >= c.reward_clip[1]
    ):
        raise ConfigError(f"credit.reward_clip: {c.reward_clip} must be [low, high]")
    if ("entropy_weight" in s.loss_inputs) != (c.target_entropy is not None):
        raise ConfigError(
            "credit.target_entropy and the loss weighted_entropy belong together; give both or "
            "neither"
        )
    truncated = sampling.top_p < 1 or sampling.top_k > 0 or sampling.min_p > 0
    if (
        truncated
        and sampling.temperature != 1
        and (c.importance_correction != "none" or "engine_logprobs" in s.loss_inputs)
    ):
        raise ConfigError(
            "credit.importance_correction, and losses that read engine_logprobs, need log-probs "
            "of the distribution that is "
            "trained; with a temperature other than 1 leave out top_p, top_k and min_p"
        )


def _check_given(s: PolicyGradient) -> None:
    """Settings of given tokens. That a loss learns them is checked by the objective."""
    if s.given_steps < 0 or s.mix_batch_size < 1:
        raise ConfigError("given_steps must not be negative, and mix_batch_size at least 1")
    gives = s.mixes or s.given_steps > 0
    if gives and s.trust_region is not None:
        raise ConfigError(
            "trust_region: its step is of the surrogate alone; leave out given tokens, or the "
            "trust region"
        )


def _check_numbers(s: PolicyGradient, rewards: RewardSet) -> None:
    """Try the estimator on one success among a prompt's completions: where even that earns
    nothing, nothing ever will.
    """
    if "token_rewards" in s.advantage_inputs or s.compares_groups:
        return
    table = np.zeros((2, s.num_generations))
    table[0, 0] = 1.0
    inputs = {
        "rewards": table,
        "greedy_rewards": np.full(2, 0.5),
        "lengths": np.ones_like(table),
        "reward_table": np.repeat(table[:, :, None], len(rewards.names), axis=2),
        "reward_weights": np.array(list(rewards.weights.values())),
        "baseline": float("nan"),
    }
    function = registry.advantages.bind(s.advantage.name, s.advantage.settings)
    found = function(*(inputs[n] for n in s.advantage_inputs))
    found = found[0] if isinstance(found, tuple) else found
    if not np.asarray(found)[0].any():
        why = (
            "1 gives no group to compare with"
            if s.num_generations == 1
            else f"{s.num_generations} is too few"
        )
        raise ConfigError(
            f"num_generations: {why}: one success would have advantage 0 by {s.advantage.name!r} "
            f"{s.advantage.settings or ''}; 8 or 16 are usual, and batch_mean or greedy_baseline "
            "do with 1"
        )
