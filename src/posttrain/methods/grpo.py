"""Reinforcement learning with groups of completions: GRPO and its kin are settings of this one method."""

from __future__ import annotations

from typing import Any, Literal

from posttrain import registry
from posttrain.config import Component, SamplingConfig
from posttrain.errors import ConfigError
from posttrain.methods.evaluating import evaluate_model
from posttrain.methods.prompting import encode_prompts, make_collector, make_sampling, make_task
from posttrain.methods.run import TrainingJob
from posttrain.registry import methods
from posttrain.rewards.base import RewardSet
from posttrain.rollouts.collect import Prompt
from posttrain.rollouts.source import RolloutSource
from posttrain.training.hooks import RolloutWriter
from posttrain.training.objective import Objective
from posttrain.types import Sampling, Task, plain_text


@methods.register
def grpo(
    run,
    *,
    task: Component,
    rewards: list[Component] = ("task",),  # type: ignore[assignment]
    losses: list[Component] = ({"name": "clipped", "aggregation": "sequence_mean"},),  # type: ignore[assignment]
    advantage: Component = "group_mean",  # type: ignore[assignment]
    num_generations: int = 8,
    sampling: SamplingConfig = {},  # type: ignore[assignment]
    batch_size: int = 8,
    num_iterations: int = 1,
    num_minibatches: int = 1,
    mask_truncated: bool = False,
    learning_rate: float = 1e-6,
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "constant_with_warmup",
) -> TrainingJob:
    """Group relative policy optimisation with verifiable rewards (DeepSeekMath, arXiv 2402.03300).

    Each step samples num_generations completions of batch_size prompts, rewards them, gives each the advantage over its
    group, and takes num_iterations * num_minibatches optimiser steps on the clipped surrogate. The defaults are GRPO:
    group mean and standard deviation, token ratios, mean over tokens and then over sequences, no KL term.
      Dr.GRPO:  advantage: {name: group_mean, scale: none}, losses: [{name: clipped, aggregation: fixed_length}]
      DAPO:     losses: [{name: clipped, clip_high: 0.28, aggregation: token_mean}], mask_truncated: true
      GSPO:     losses: [{name: clipped, level: sequence, clip_low: 3e-4, clip_high: 4e-4, aggregation: sequence_mean}]
      CISPO:    losses: [{name: cispo, aggregation: token_mean}]      RLOO: advantage: leave_one_out
      KL term:  losses: [..., {name: kl, weight: 0.04}]
    """
    _check(num_generations, batch_size, num_iterations, num_minibatches)
    made = make_task(run, task)
    sampled = make_sampling(sampling, made)
    prompts = encode_prompts(run, made, sampled)
    reward_set = RewardSet([(c.name, c.weight, c.settings) for c in rewards], task=made)
    reward_set.self_test(made.examples)
    objective = Objective(
        losses, aggregation="sequence_mean", max_length=sampled.max_tokens, temperature=sampled.temperature or 1.0
    )
    estimator = registry.advantages.bind(advantage.name, advantage.settings)
    per_epoch = max(len(prompts) // min(batch_size, len(prompts)), 1)
    steps = run.steps_for(per_epoch)

    def make_source(model: Any) -> RolloutSource:
        return RolloutSource(
            make_collector(run, model, prompts, reward_set, sampled, batch_size=batch_size, num_generations=num_generations),
            model=model,
            advantage=estimator,
            num_iterations=num_iterations,
            num_minibatches=num_minibatches,
            mask_truncated=mask_truncated,
            skip_idle=not objective.keeps_zero_advantage,
            max_tokens=run.micro_batch_tokens(model),
        )

    def make_hooks(model: Any, source: Any) -> list[Any]:
        return [RolloutWriter(run.folder / "rollouts.jsonl", lambda: source.groups, resume_step=run.resume_step)]

    def show(source: Any) -> Any:
        """A completion of the last step for the progress display."""
        if not source.groups:
            return None
        group = source.groups[0]
        return plain_text(group.example.prompt), group.rollouts[0].text, group.rollouts[0].reward

    def execute() -> None:
        try:
            model = run.train(make_source, objective, steps=steps, make_hooks=make_hooks, show=show)
        finally:
            reward_set.close()
        if run.recipe.evaluation is not None:
            evaluate_model(run, model)

    facts = _facts(made, prompts, rewards, objective, sampled, batch_size * num_generations, steps)
    return TrainingJob(facts, execute)


def _facts(
    task: Task,
    prompts: list[Prompt],
    rewards: list[Component],
    objective: Objective,
    sampling: Sampling,
    completions: int,
    steps: int,
) -> list[tuple[str, str]]:
    lengths = [len(p.ids) for p in prompts]
    return [
        ("task", f"{task.name}: {len(prompts)} prompts of {min(lengths)} to {max(lengths)} tokens"),
        ("rewards", ", ".join(f"{c.name} x {c.weight:g}" for c in rewards) + " (self-test passed)"),
        ("losses", ", ".join(f"{t.name} ({t.aggregation}) x {t.weight:g}" for t in objective.terms)),
        ("a step", f"{completions} completions of at most {sampling.max_tokens} tokens, temperature {sampling.temperature:g}"),
        ("steps", str(steps)),
    ]


def _check(num_generations: int, batch_size: int, num_iterations: int, num_minibatches: int) -> None:
    if num_generations < 2:
        raise ConfigError(f"num_generations: {num_generations} gives no group to compare with; at least 2 (8 or 16 are usual)")
    for name, value in (("num_iterations", num_iterations), ("num_minibatches", num_minibatches)):
        if value < 1:
            raise ConfigError(f"{name}: {value} must be at least 1")
    if num_minibatches > batch_size:
        raise ConfigError(f"num_minibatches: {num_minibatches} is more than the {batch_size} prompts of a step")
