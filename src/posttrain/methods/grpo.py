"""Reinforcement learning with groups of completions: GRPO and its kin are settings of this one
method.
"""

from __future__ import annotations

from posttrain.config import (
    AgentConfig,
    Component,
    ComponentLike,
    CreditConfig,
    EngineLike,
    Limits,
    OverlapConfig,
    SamplingConfig,
    TrustRegionConfig,
)
from posttrain.methods.episodes import EnvironmentLike, Episodes
from posttrain.methods.objects import Losses, Rewards, Rows, TaskLike, components_of
from posttrain.methods.policy_gradient import policy_gradient_plan
from posttrain.methods.policy_settings import PolicyGradient
from posttrain.registry import methods
from posttrain.training.optim import Schedule
from posttrain.training.plan import AdamW, Plan


@methods.register(trains="language")
def grpo(
    task: TaskLike,
    *,
    rewards: Rewards = ("task",),
    losses: Losses = ({"name": "clipped", "aggregation": "sequence_mean"},),
    advantage: ComponentLike = "group_mean",
    credit: CreditConfig = CreditConfig(),
    num_generations: int = 8,
    sampling: SamplingConfig = SamplingConfig(),
    environment: EnvironmentLike | None = None,
    agent: AgentConfig = AgentConfig(),
    engine: EngineLike = "embedded",
    overlap: OverlapConfig | None = None,
    batch_size: int = 8,
    num_iterations: int = 1,
    num_minibatches: int = 1,
    mask_truncated: bool = False,
    max_resamples: int = 0,
    drop_duplicates: bool = False,
    trust_region: TrustRegionConfig | None = None,
    mix_data: Rows | None = None,
    mix_task: TaskLike | None = None,
    mix_batch_size: int = 8,
    given_steps: int = 0,
    num_train_epochs: float = 1.0,
    measure_tied_groups: bool = True,
    learning_rate: float = 1e-6,
    lr_scheduler_type: Schedule = "constant_with_warmup",
    limits: Limits = Limits(),
) -> Plan:
    """Policy gradients without a critic: group relative policy optimisation (DeepSeekMath, arXiv
    2402.03300) and its kin.

    Each step samples num_generations completions of batch_size prompts, rewards them, gives each an
    advantage (by default over its group), and takes num_iterations * num_minibatches optimiser
    steps. The defaults are GRPO: group mean and standard deviation, token ratios, mean over tokens
    and then over sequences, no KL term. Every named algorithm is a setting (folder
    recipes/policy_gradient):
      Dr.GRPO:  advantage: {name: group_mean, scale: none}, losses: [{name: clipped, aggregation:
                fixed_length}]
      DAPO:     losses: [{name: clipped, clip_high: 0.28, aggregation: token_mean}], mask_truncated:
                true, max_resamples: 3
      GSPO:     losses: [{name: clipped, level: sequence, clip_low: 3e-4, clip_high: 4e-4,
                aggregation: sequence_mean}]
      CISPO:    losses: [{name: cispo, aggregation: token_mean}]
      RLOO:     advantage: leave_one_out
      KL term:  losses: [..., {name: kl, weight: 0.04}]; KL in the reward: credit: {kl_weight: 0.05}
    Groups whose rewards are all equal have no gradient and get no training pass.

    The loss is near 0 at every step, and is no measure of progress: the advantages of a group sum
    to 0, and each ratio is 1 before the first update of a step. Its gradient is not 0. Look at
    `reward`, `frac_reward_zero_std` and `entropy` instead.

    Args:
        task: its prompts, and what the reward "task" asks.
        rewards: names or functions, with weights.
        losses: policy losses, with weights and averages.
        advantage: the estimator of advantages.
        credit: what is done to rewards and advantages beside estimating.
        num_generations: completions per prompt.
        sampling: of the completions.
        environment: what the model acts in: a completion is then an episode of several turns. The
            reward "environment" is what it gives.
        agent: how the model acts there.
        engine: what samples: "embedded" is the trained model itself; servers (vLLM, SGLang) get
            its weights after each step.
        overlap: sample in another process while this one trains on earlier completions.
        batch_size: prompts per step.
        num_iterations: passes over a step's completions.
        num_minibatches: updates per pass.
        mask_truncated: leave completions that hit the length limit out of the loss.
        max_resamples: how often to replace prompts whose rewards are all equal.
        drop_duplicates: train on equal completions of a prompt once.
        trust_region: TRPO's update in AdamW's place.
        mix_data: rows of which every update also learns mix_batch_size, by the loss given_nll.
        mix_task: a task whose worked examples take the place of mix_data.
        mix_batch_size: mixed rows per update.
        given_steps: MIXER: over so many steps the beginning of the worked completion that is given
            with a prompt, and learnt by given_nll, shrinks to nothing.
        num_train_epochs: passes over the prompts, where the number of steps is not set.
        measure_tied_groups: run a forward pass without gradient over groups with equal rewards, so
            that entropy, clip_ratio/* and sampling/sampling_logp_difference/* are means over all
            completion tokens of a step, as in TRL. It costs about a third of a training pass over
            these groups and does not change the weights. If false, these metrics leave the groups
            out and their names end in /informative_groups.
        learning_rate: peak learning rate of the run.
        lr_scheduler_type: how the learning rate changes.
        limits: how much may fail or be dropped.
    """
    settings = dict(locals())
    chosen = PolicyGradient(
        rewards=components_of(rewards),
        losses=components_of(losses),
        advantage=Component.of(advantage),
        credit=credit,
        sampling=sampling,
        engine=engine,
        episodes=Episodes.of(environment, agent),
        overlap=overlap,
        num_generations=num_generations,
        batch_size=batch_size,
        num_iterations=num_iterations,
        num_minibatches=num_minibatches,
        mask_truncated=mask_truncated,
        max_resamples=max_resamples,
        drop_duplicates=drop_duplicates,
        trust_region=trust_region,
        mix_data=mix_data,
        mix_task=mix_task,
        mix_batch_size=mix_batch_size,
        given_steps=given_steps,
        num_train_epochs=num_train_epochs,
        measure_tied_groups=measure_tied_groups,
        limits=limits,
    )
    optimizer = AdamW(learning_rate, lr_scheduler_type)
    return policy_gradient_plan("grpo", settings, task, chosen, optimizer)
