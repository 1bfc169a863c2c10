"""Policy gradients with a critic: PPO, A2C and their kin are settings of this one method."""

from __future__ import annotations

from typing import Literal

from posttrain.config import (
    Component,
    CreditConfig,
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    SamplingConfig,
    TrustRegionConfig,
)
from posttrain.methods.policy_gradient import PolicyGradient, make_job
from posttrain.methods.prompting import make_sampling, make_task
from posttrain.methods.run import TrainingJob
from posttrain.registry import methods


@methods.register
def ppo(
    run,
    *,
    task: Component,
    evaluation: EvaluationConfig | None = None,
    rewards: list[Component] = ("task",),  # type: ignore[assignment]
    losses: list[Component] = (
        {"name": "clipped", "aggregation": "token_mean"},
        {"name": "value", "weight": 0.5, "aggregation": "token_mean"},
    ),  # type: ignore[assignment]
    advantage: Component = "gae",  # type: ignore[assignment]
    credit: CreditConfig = {"kl_weight": 0.05, "whiten": True},  # type: ignore[assignment]
    critic: ModelConfig | None = None,
    critic_learning_rate: float | None = None,
    num_generations: int = 1,
    sampling: SamplingConfig = {},  # type: ignore[assignment]
    batch_size: int = 64,
    num_iterations: int = 4,
    num_minibatches: int = 1,
    mask_truncated: bool = False,
    max_resamples: int = 0,
    trust_region: TrustRegionConfig | None = None,
    mix_data: DataConfig | None = None,
    mix_task: Component | None = None,
    mix_batch_size: int = 8,
    num_train_epochs: float = 1.0,
    learning_rate: float = 1e-6,
    lr_scheduler_type: Literal[
        "linear", "cosine", "constant", "constant_with_warmup"
    ] = "constant_with_warmup",
) -> TrainingJob:
    """Proximal policy optimisation with a critic, as in RLHF (arXiv 1707.06347; InstructGPT, arXiv
    2203.02155).

    Each step samples completions, credits each token by generalised advantage estimation with the
    values of a critic, and takes num_iterations * num_minibatches optimiser steps on the clipped
    surrogate and the clipped value loss. KL to the model that the run starts from is taken off the
    reward, token by token, and advantages are whitened (credit; a recipe's own replaces both).
    critic: the model that the critic starts from, with a fresh head of zeros; left out, the
    recipe's own model. It is trained beside the policy at critic_learning_rate (left out, the
    policy's) and saved in the folder `critic` of a checkpoint.
    mix_data, mix_task: rows (or worked examples of a task) of which every update also learns
    mix_batch_size, by the loss
    given_nll: the pretraining mix of PPO-ptx.
      A2C:   num_iterations: 1, advantage: {name: n_step, n: 5}, losses: [..., {name: entropy_bonus,
             weight: 0.01}]
      ptx:   mix_data: corpus.jsonl, losses: [..., {name: given_nll, weight: 1.0, aggregation:
             token_mean}]
      TRPO:  num_iterations: 1, losses: [surrogate, value], trust_region: {max_kl: 0.01}
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
        trust_region=trust_region,
        with_critic=True,
        critic=critic,
        critic_learning_rate=critic_learning_rate,
        mix_data=mix_data,
        mix_task=mix_task,
        mix_batch_size=mix_batch_size,
    )
    return make_job(run, made, make_sampling(sampling, made), settings, evaluation)
