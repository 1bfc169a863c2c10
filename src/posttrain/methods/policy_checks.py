"""Combinations of policy-gradient settings that cannot work, refused before weights are loaded."""

from __future__ import annotations

import numpy as np

from posttrain import registry
from posttrain.config import TrustRegionConfig
from posttrain.errors import ConfigError
from posttrain.methods.policy_settings import PolicyGradient
from posttrain.overlap_config import check_overlap
from posttrain.rewards.base import RewardSet
from posttrain.sources.earned import ENVIRONMENT
from posttrain.types import Sampling


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
    _check_credit(s)
    _check_off_policy(s, sampling)
    _check_given(s)
    _check_episodes(s)
    _check_overlap(s)
    per_token = not {"token_rewards", "turn_rewards"}.isdisjoint(s.advantage_inputs)
    for item in s.losses:
        level = item.settings.get("level", "token")
        reads_advantages = "advantages" in registry.losses.entry_of(item).inputs
        if per_token and reads_advantages and level in ("sequence", "sequence_sum"):
            raise ConfigError(
                f"losses: {item.name!r} with level {level} gives a sequence one ratio, but "
                f"{s.advantage.name!r} gives each "
                "token its own advantage; use level: sequence_token, where the loss has it, or "
                "token"
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
    rate = s.critic.learning_rate if s.critic is not None else None
    if rate is not None and rate <= 0:
        raise ConfigError(
            f"critic_learning_rate: {rate} must be above 0; leave it out to take the policy's"
        )
    asking = "values" in s.advantage_inputs
    if asking and s.critic is None:
        raise ConfigError(
            f"advantage: {s.advantage.name!r} needs a critic; use method ppo, or an estimator "
            "that compares rewards"
        )
    trained = "values" in s.loss_inputs
    if trained and s.critic is None:
        (name, *_) = _reading("values", s)
        raise ConfigError(
            f"losses: {name!r} trains a critic, which this method has not; use method ppo"
        )
    if s.critic is not None and not asking:
        raise ConfigError(
            f"advantage: {s.advantage.name!r} makes no use of the critic; use one that reads "
            f"values ({_estimators('values')}), or method grpo"
        )
    if s.critic is not None and not trained:
        raise ConfigError(
            f"losses: nothing trains the critic; add a loss that reads values, with weight 0.5: "
            f"{_readers('returns')}"
        )


def _check_credit(s: PolicyGradient) -> None:
    c = s.credit
    if c.kl_weight < 0 or (c.kl_target is not None and (c.kl_target <= 0 or not c.kl_weight)):
        raise ConfigError(
            "credit: kl_weight must not be negative, and kl_target above 0 with a kl_weight to "
            "start from"
        )
    estimator = registry.advantages.entry_of(s.advantage)
    if c.kl_weight and not estimator.declared["kl_in_reward"]:
        raise ConfigError(
            f"credit.kl_weight: advantage {s.advantage.name!r} cannot be combined with KL in the "
            "reward; take KL as a loss instead, see `posttrain ls losses`"
        )
    steps = [r.name for r in s.rewards if registry.rewards.entry_of(r).per == "step"]
    if estimator.declared["step_rewards"] and not steps:
        raise ConfigError(
            f"advantage: {s.advantage.name!r} needs a reward per step: {_step_rewards()}, or one "
            'of your own under @rewards.register(per="step")'
        )
    if not 0 < c.top_entropy <= 1:
        raise ConfigError(
            f"credit.top_entropy: {c.top_entropy} must be above 0 and at most 1, the share of "
            "tokens that learn"
        )
    if c.reward_clip is not None and (steps or "reward_table" in s.advantage_inputs):
        raise ConfigError(
            "credit.reward_clip bounds the reward of a whole completion; rewards of steps and "
            "of single reward functions are taken as they are, so leave it out"
        )
    if c.reward_clip is not None and (
        len(c.reward_clip) != 2 or c.reward_clip[0] >= c.reward_clip[1]
    ):
        raise ConfigError(f"credit.reward_clip: {c.reward_clip} must be [low, high]")
    if ("entropy_weight" in s.loss_inputs) != (c.target_entropy is not None):
        raise ConfigError(
            "credit.target_entropy and a loss that reads entropy_weight belong together; give "
            f"both or neither. Such losses: {_readers('entropy_weight')}"
        )


def _check_off_policy(s: PolicyGradient, sampling: Sampling) -> None:
    """Settings of importance weights and of rejection."""
    c = s.credit
    if c.importance_clip_max <= 0:
        raise ConfigError(
            f"credit.importance_clip_max: {c.importance_clip_max} must be above 0, the largest "
            "weight of a token"
        )
    masks = c.importance_correction.endswith("mask")
    if c.importance_clip_min and not masks:
        raise ConfigError(
            f"credit.importance_clip_min: {c.importance_clip_min} has no effect with "
            f"importance_correction {c.importance_correction!r}; take token_mask or sequence_mask, "
            "or leave it out"
        )
    if not 0 <= c.importance_clip_min < c.importance_clip_max:
        raise ConfigError(
            f"credit.importance_clip_min: {c.importance_clip_min} must be at least 0 and below "
            f"importance_clip_max, {c.importance_clip_max}"
        )
    if c.importance_normalize and c.importance_correction == "none":
        raise ConfigError(
            "credit.importance_normalize: there are no importance weights to normalise; set "
            "importance_correction, or leave it out"
        )
    if c.rejection_min is not None and not c.rejection.endswith("k1"):
        raise ConfigError(
            f"credit.rejection_min: {c.rejection_min} is a bound of k1 alone, and rejection is "
            f"{c.rejection!r}; leave it out"
        )
    low = 0.0 if c.rejection_min is None else c.rejection_min
    if c.rejection_max <= 0 or low > 0:
        raise ConfigError(
            f"credit.rejection_max: {c.rejection_max} must be above 0 and rejection_min, "
            f"{c.rejection_min}, at most 0, so that tokens on which engine and policy agree are "
            "trained on"
        )
    truncated = sampling.top_p < 1 or sampling.top_k > 0 or sampling.min_p > 0
    if truncated and sampling.temperature != 1 and s.corrects:
        raise ConfigError(
            "credit.importance_correction, credit.rejection and losses that read engine_logprobs "
            "need log-probs of the distribution that is trained; with a temperature other than 1 "
            "leave out top_p, top_k and min_p"
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


def _check_episodes(s: PolicyGradient) -> None:
    """Settings of episodes, and rewards that only they have."""
    names = [r.name for r in s.rewards if r.function is None]
    if s.episodes is None:
        if ENVIRONMENT in names:
            raise ConfigError(
                "rewards: 'environment' is what an environment gives, and there is none; give "
                "environment, or take another reward"
            )
        return
    if s.given_steps:
        raise ConfigError(
            "given_steps: the beginning of a worked completion cannot be given to an episode; "
            "leave it out, or the environment"
        )
    in_parts = not {"token_rewards", "turn_rewards"}.isdisjoint(s.advantage_inputs)
    if s.credit.reward_clip is not None and in_parts and ENVIRONMENT in names:
        raise ConfigError(
            f"credit.reward_clip bounds the reward of a whole episode, and {s.advantage.name!r} "
            "credits those of its turns as they are; leave it out"
        )


def _check_overlap(s: PolicyGradient) -> None:
    """Settings of sampling while training."""
    if s.overlap is None:
        return
    check_overlap(s.overlap)
    if not s.overlap.in_flight:
        return
    if s.overlap.stale == "keep" and not s.corrects:
        raise ConfigError(
            "overlap.stale: keep trains on tokens of any age, and nothing corrects for that; set "
            "credit.importance_correction or credit.rejection, or leave stale out"
        )
    alone = {
        "max_resamples": s.max_resamples,
        "given_steps": s.given_steps,
        "advantage": "greedy_rewards" in s.advantage_inputs,
    }
    for name, asked in alone.items():
        if asked and s.episodes is None:
            raise ConfigError(
                f"overlap.in_flight: groups are trained on as they are finished, and {name} needs "
                "those of a step together; leave in_flight out"
            )


def check_numbers(s: PolicyGradient, rewards: RewardSet) -> None:
    """Try the estimator on one success among a prompt's completions: where even that earns
    nothing, nothing ever will.
    """
    parts = {"token_rewards", "turn_rewards"}
    if not parts.isdisjoint(s.advantage_inputs) or s.compares_groups:
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
    function = registry.advantages.bind_of(s.advantage)
    advantages = function(*(inputs[n] for n in s.advantage_inputs))
    advantages = advantages[0] if isinstance(advantages, tuple) else advantages
    if not np.asarray(advantages)[0].any():
        why = (
            "1 gives no group to compare with"
            if s.num_generations == 1
            else f"{s.num_generations} is too few"
        )
        raise ConfigError(
            f"num_generations: {why}: one success would have advantage 0 by {s.advantage.name!r} "
            f"{s.advantage.settings or ''}; 8 or 16 are usual"
        )


def _reading(name: str, s: PolicyGradient) -> list[str]:
    """Losses of the recipe that read an input."""
    return [c.name for c in s.losses if name in registry.losses.entry_of(c).inputs]


def _readers(name: str) -> str:
    """Registered losses that read an input, for messages."""
    return ", ".join(n for n, e in registry.losses.entries().items() if name in e.inputs)


def _estimators(name: str) -> str:
    """Registered advantages that read an input, for messages."""
    return ", ".join(n for n, e in registry.advantages.entries().items() if name in e.inputs)


def _step_rewards() -> str:
    """Registered rewards that judge steps, for messages."""
    return ", ".join(n for n, e in registry.rewards.entries().items() if e.per == "step")
