"""Reinforcement learning with groups of completions: GRPO and its kin are settings of this one
method.
"""

from __future__ import annotations

from typing import Literal

from posttrain.config import (
    Component,
    CreditConfig,
    DataConfig,
    EvaluationConfig,
    SamplingConfig,
    TrustRegionConfig,
)
from posttrain.methods.policy_gradient import PolicyGradient, make_job
from posttrain.methods.prompting import make_sampling, make_task
from posttrain.methods.run import TrainingJob
from posttrain.registry import methods


@methods.register
def grpo(
    run,
    *,
    task: Component,
    evaluation: EvaluationConfig | None = None,
    rewards: list[Component] = ("task",),  # type: ignore[assignment]
    losses: list[Component] = ({"name": "clipped", "aggregation": "sequence_mean"},),  # type: ignore[assignment]
    advantage: Component = "group_mean",  # type: ignore[assignment]
    credit: CreditConfig = {},  # type: ignore[assignment]
    num_generations: int = 8,
    sampling: SamplingConfig = {},  # type: ignore[assignment]
    batch_size: int = 8,
    num_iterations: int = 1,
    num_minibatches: int = 1,
    mask_truncated: bool = False,
    max_resamples: int = 0,
    drop_duplicates: bool = False,
    trust_region: TrustRegionConfig | None = None,
    mix_data: DataConfig | None = None,
    mix_task: Component | None = None,
    mix_batch_size: int = 8,
    given_steps: int = 0,
    num_train_epochs: float = 1.0,
    measure_tied_groups: bool = True,
    learning_rate: float = 1e-6,
    lr_scheduler_type: Literal[
        "linear", "cosine", "constant", "constant_with_warmup"
    ] = "constant_with_warmup",
) -> TrainingJob:
    """Policy gradients without a critic: group relative policy optimisation (DeepSeekMath, arXiv
    2402.03300) and its kin.

    Each step samples num_generations completions of batch_size prompts, rewards them, gives each an
    advantage (by default over its group), and takes num_iterations * num_minibatches optimiser
    steps. The defaults are GRPO: group mean and standard deviation, token ratios, mean over tokens
    and then over sequences, no KL term.
      Dr.GRPO:  advantage: {name: group_mean, scale: none}, losses: [{name: clipped, aggregation:
                fixed_length}]
      DAPO:     losses: [{name: clipped, clip_high: 0.28, aggregation: token_mean}], mask_truncated:
                true, max_resamples: 3
      GSPO:     losses: [{name: clipped, level: sequence, clip_low: 3e-4, clip_high: 4e-4,
                aggregation: sequence_mean}]
      CISPO:    losses: [{name: cispo, aggregation: token_mean}]      RLOO: advantage: leave_one_out
      KL term:  losses: [..., {name: kl, weight: 0.04}]; KL in the reward: credit: {kl_weight: 0.05}
    Every named algorithm is such a setting (folder recipes/policy_gradient). max_resamples: rounds
    of other prompts for those whose rewards tie. drop_duplicates: equal completions of a prompt
    count once. trust_region: TRPO's update, not AdamW's.
    mix_data, mix_task: rows (or a task's worked examples) of which every update also learns
    mix_batch_size, by the loss given_nll. given_steps: MIXER; over so many steps the beginning of
    the worked completion that is given with a prompt, and learnt by given_nll, shrinks to nothing.

    Groups whose rewards tie have no gradient and get no training pass. measure_tied_groups: a
    forward pass without gradient over them, so that entropy, clip_ratio/* and
    sampling/sampling_logp_difference/* are means over all completion tokens of a step, as in TRL.
    It costs about a third of a training pass over these groups and does not change the weights. If
    false, these metrics leave the groups out and their names end in /informative_groups.
    """
    made = make_task(run, task)
    settings = PolicyGradient(
        rewards,
        losses,
        advantage,
        credit,
        num_generations,
        batch_size,
        num_iterations,
        num_minibatches,
        mask_truncated,
        max_resamples,
        drop_duplicates,
        trust_region,
        mix_data=mix_data,
        mix_task=mix_task,
        mix_batch_size=mix_batch_size,
        given_steps=given_steps,
        measure_tied_groups=measure_tied_groups,
    )
    return make_job(run, made, make_sampling(sampling, made), settings, evaluation)
