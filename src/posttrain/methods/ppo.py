"""Proximal policy optimisation with a critic."""

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
from posttrain.methods.objects import (
    Losses,
    ModelLike,
    Rewards,
    Rows,
    TaskLike,
    components_of,
    model_of,
)
from posttrain.methods.policy_gradient import policy_gradient_plan
from posttrain.methods.policy_settings import PolicyGradient
from posttrain.registry import methods
from posttrain.training.optim import Schedule
from posttrain.training.plan import AdamW, Critic, Plan


@methods.register(trains="language")
def ppo(
    task: TaskLike,
    *,
    rewards: Rewards = ("task",),
    losses: Losses = (
        {"name": "clipped", "aggregation": "token_mean"},
        {"name": "value", "weight": 0.5, "aggregation": "token_mean"},
    ),
    advantage: ComponentLike = "gae",
    credit: CreditConfig = CreditConfig(kl_weight=0.05, whiten=True),
    critic: ModelLike | None = None,
    critic_learning_rate: float | None = None,
    num_generations: int = 1,
    sampling: SamplingConfig = SamplingConfig(),
    environment: EnvironmentLike | None = None,
    agent: AgentConfig = AgentConfig(),
    engine: EngineLike = "embedded",
    overlap: OverlapConfig | None = None,
    batch_size: int = 64,
    num_iterations: int = 4,
    num_minibatches: int = 1,
    mask_truncated: bool = False,
    max_resamples: int = 0,
    trust_region: TrustRegionConfig | None = None,
    mix_data: Rows | None = None,
    mix_task: TaskLike | None = None,
    mix_batch_size: int = 8,
    num_train_epochs: float = 1.0,
    learning_rate: float = 1e-6,
    lr_scheduler_type: Schedule = "constant_with_warmup",
    limits: Limits = Limits(),
) -> Plan:
    """Proximal policy optimisation with a critic, as in RLHF (arXiv 1707.06347; InstructGPT, arXiv
    2203.02155).

    Each step samples completions, credits each token by generalised advantage estimation with the
    values of a critic, and takes num_iterations * num_minibatches optimiser steps on the clipped
    surrogate and the clipped value loss. KL to the model that the run starts from is subtracted
    from the reward, token by token, and advantages are whitened.
      A2C:   num_iterations: 1, advantage: {name: n_step, n: 5}, losses: [..., {name: entropy_bonus,
             weight: 0.01}]
      ptx:   mix_data: corpus.jsonl, losses: [..., {name: given_nll, weight: 1.0, aggregation:
             token_mean}]
      TRPO:  num_iterations: 1, losses: [surrogate, value], trust_region: {max_kl: 0.01}

    Args:
        task: its prompts, and what the reward "task" asks.
        rewards: names or functions, with weights.
        losses: policy losses and a loss of values, with weights and averages.
        advantage: the estimator of advantages; it reads the critic's values.
        credit: what is done to rewards and advantages beside estimating. One that is given
            replaces the default whole.
        critic: the model that the critic starts from, with a fresh head of zeros; None is the
            trained model. It is saved in the folder critic/ of a checkpoint.
        critic_learning_rate: the critic's own; None is learning_rate.
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
        trust_region: TRPO's update in AdamW's place.
        mix_data: rows of which every update also learns mix_batch_size, by the loss given_nll: the
            pretraining mix of PPO-ptx.
        mix_task: a task whose worked examples take the place of mix_data.
        mix_batch_size: mixed rows per update.
        num_train_epochs: passes over the prompts, where the number of steps is not set.
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
        trust_region=trust_region,
        critic=Critic(model_of(critic), critic_learning_rate),
        mix_data=mix_data,
        mix_task=mix_task,
        mix_batch_size=mix_batch_size,
        num_train_epochs=num_train_epochs,
        limits=limits,
    )
    optimizer = AdamW(learning_rate, lr_scheduler_type)
    return policy_gradient_plan("ppo", settings, task, chosen, optimizer)
