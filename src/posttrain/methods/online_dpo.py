"""Preference optimisation on pairs that the policy writes itself and a reward judges."""

from __future__ import annotations

from typing import Any, Literal

from posttrain.config import Component, EvaluationConfig, SamplingConfig
from posttrain.errors import ConfigError
from posttrain.inputs import SAMPLED_PAIRS
from posttrain.methods.comparing import ReferencePlan
from posttrain.methods.evaluating import evaluate_model, evaluation_hooks
from posttrain.methods.prompting import (
    encode_prompts,
    make_collector,
    make_rewards,
    make_sampling,
    make_task,
)
from posttrain.methods.run import Run, TrainingJob
from posttrain.registry import methods
from posttrain.rewards.base import RewardSet
from posttrain.rollouts.pairs import PairSource, best_and_worst
from posttrain.training.hooks import RolloutWriter, first_rollout
from posttrain.training.objective import Objective


@methods.register
def online_dpo(
    run,
    *,
    task: Component,
    evaluation: EvaluationConfig | None = None,
    rewards: list[Component] = ("task",),  # type: ignore[assignment]
    losses: list[Component] = ("dpo",),  # type: ignore[assignment]
    num_generations: int = 4,
    sampling: SamplingConfig = {},  # type: ignore[assignment]
    batch_size: int = 16,
    num_train_epochs: float = 1.0,
    reference_every: int = 0,
    reference_mix: float = 1.0,
    learning_rate: float = 1e-6,
    lr_scheduler_type: Literal[
        "linear", "cosine", "constant", "constant_with_warmup"
    ] = "constant_with_warmup",
) -> TrainingJob:
    """Online DPO (arXiv 2402.04792): each step samples, rewards, and learns from the best against
    the worst of a prompt.

    Each step samples num_generations completions of batch_size prompts with the policy as it is,
    rewards them (the task's verifier, a judge, or any mix of rewards), and takes one update on the
    pairs of best and worst. Prompts whose rewards all tie are skipped, and counted in
    pairs/skipped. The reference is the model of the start; with reference_every it becomes the
    policy of that moment each so many steps: iterative DPO. Any loss of pairs will do.
    """
    if num_generations < 2:
        raise ConfigError(
            f"num_generations: {num_generations} gives no pair; at least 2 (4 or 8 are usual)"
        )
    made = make_task(run, task)
    sampled = make_sampling(sampling, made)
    if sampled.temperature == 0:
        raise ConfigError(
            "sampling.temperature: 0 samples the same completion each time, so that there is no "
            "pair"
        )
    prompts = encode_prompts(run, made, sampled)
    reward_set = make_rewards(run, rewards, made)
    reward_set.self_test(made.examples)
    objective = Objective(
        losses, roles=("chosen", "rejected"), temperature=sampled.temperature, carries=SAMPLED_PAIRS
    )
    plan = ReferencePlan(False, reference_every, reference_mix)
    plan.check(run, objective)
    steps = run.steps_for(max(len(prompts) // min(batch_size, len(prompts)), 1))

    def make_source(model: Any) -> PairSource:
        collector = make_collector(
            run,
            model,
            prompts,
            reward_set,
            sampled,
            batch_size=batch_size,
            num_generations=num_generations,
        )
        return PairSource(collector, best_and_worst, model=model, whole=objective.whole)

    def execute() -> None:
        train_on_pairs(run, plan, make_source, objective, reward_set, steps, evaluation)

    facts = [
        (
            "task",
            f"{made.name}: {len(prompts)} prompts of {min(len(p.ids) for p in prompts)} to "
            f"{max(len(p.ids) for p in prompts)} tokens",
        ),
        ("rewards", ", ".join(f"{c.name} x {c.weight:g}" for c in rewards) + " (self-test passed)"),
        ("losses", ", ".join(f"{t.name} x {t.weight:g}" for t in objective.terms)),
        (
            "a step",
            f"best against worst of {num_generations} completions of {batch_size} prompts, at most "
            f"{sampled.max_tokens} tokens, temperature {sampled.temperature:g}",
        ),
        (
            "steps",
            str(steps)
            + (f", the reference moves every {reference_every}" if reference_every else ""),
        ),
    ]
    return TrainingJob(facts, execute)


def train_on_pairs(
    run: Run,
    plan: ReferencePlan,
    make_source: Any,
    objective: Objective,
    reward_set: RewardSet,
    steps: int,
    evaluation: EvaluationConfig | None,
) -> None:
    """Train on a `PairSource`, with its rollouts written down; then evaluate, if the recipe
    says so.
    """

    def make_hooks(model: Any, source: Any) -> list[Any]:
        writer = RolloutWriter(
            run.folder / "rollouts.jsonl", lambda: source.groups, resume_step=run.resume_step
        )
        return [*plan.hooks(model), writer, *evaluation_hooks(run, model, evaluation, steps)]

    try:
        model = plan.train(
            run, make_source, objective, steps=steps, make_hooks=make_hooks, show=first_rollout
        )
    finally:
        reward_set.close()
    evaluate_model(run, model, evaluation)
