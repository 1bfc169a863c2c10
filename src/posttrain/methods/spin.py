"""Self-play fine-tuning: the data's completions against the model's own."""

from __future__ import annotations

from typing import Any, Literal

from posttrain.config import Component, EvaluationConfig, SamplingConfig
from posttrain.data.encode import encode_items
from posttrain.data.forest import TokenSequence
from posttrain.data.item import Item
from posttrain.data.templates import as_messages
from posttrain.errors import ConfigError, DataError
from posttrain.inputs import SAMPLED_PAIRS
from posttrain.methods.comparing import ReferencePlan
from posttrain.methods.online_dpo import train_on_pairs
from posttrain.methods.prompting import (
    encode_prompts,
    make_collector,
    make_rewards,
    make_sampling,
    make_task,
)
from posttrain.methods.run import Run, TrainingJob
from posttrain.registry import methods
from posttrain.rollouts.pairs import PairSource, against_data
from posttrain.training.objective import Objective
from posttrain.types import Task


@methods.register
def spin(
    run,
    *,
    task: Component,
    evaluation: EvaluationConfig | None = None,
    rewards: list[Component] = ("task",),  # type: ignore[assignment]
    losses: list[Component] = ("dpo",),  # type: ignore[assignment]
    num_rounds: int = 3,
    sampling: SamplingConfig = {},  # type: ignore[assignment]
    batch_size: int = 16,
    num_train_epochs: float = 1.0,
    learning_rate: float = 1e-6,
    lr_scheduler_type: Literal[
        "linear", "cosine", "constant", "constant_with_warmup"
    ] = "constant_with_warmup",
) -> TrainingJob:
    """Self-play fine-tuning (SPIN, arXiv 2401.01335): worked completions are chosen, the opponent's
    own are rejected.

    The opponent, which also is the reference, is the model as it was at the start of the round; it
    writes one completion of each prompt. There are num_rounds rounds of num_train_epochs over the
    task (or of equal shares of max_steps). Prompts where it writes the worked completion itself are
    skipped, and counted in pairs/skipped. Rewards are told and not learnt from.
    """
    made = make_task(run, task)
    sampled = make_sampling(sampling, made)
    prompts = encode_prompts(run, made, sampled)
    written = _written(run, made)
    reward_set = make_rewards(run, rewards, made)
    reward_set.self_test(made.examples)
    objective = Objective(losses, roles=("chosen", "rejected"), carries=SAMPLED_PAIRS)
    if num_rounds < 1:
        raise ConfigError(f"num_rounds: {num_rounds} must be at least 1")
    if not objective.needs_reference:
        raise ConfigError(
            "losses: self-play compares with the opponent, so a loss with a reference is needed, "
            "such as dpo"
        )
    a_round = run.steps_for(max(len(prompts) // min(batch_size, len(prompts)), 1))
    steps = run.recipe.max_steps or num_rounds * a_round
    plan = ReferencePlan(
        False, max(-(-steps // num_rounds), 1), by_steps="rounds are equal shares of the steps"
    )
    plan.check(run, objective)

    def make_source(model: Any) -> PairSource:
        collector = make_collector(
            run, model, prompts, reward_set, sampled, batch_size=batch_size, num_generations=1
        )
        return PairSource(
            collector,
            against_data(written),
            model=model,
            whole=objective.whole,
            sampler=model.reference,
        )

    def execute() -> None:
        train_on_pairs(run, plan, make_source, objective, reward_set, steps, evaluation)

    facts = [
        ("task", f"{made.name}: {len(prompts)} worked examples"),
        ("losses", ", ".join(f"{t.name} x {t.weight:g}" for t in objective.terms)),
        ("rounds", f"{num_rounds} of {plan.every} steps of {batch_size} pairs"),
    ]
    return TrainingJob(facts, execute)


def _written(run: Run, task: Task) -> dict[str, TokenSequence]:
    """The worked completion of each example behind its prompt."""
    lacking = [e.id for e in task.examples if e.completion is None]
    if lacking:
        raise DataError(
            f"task {task.name!r}: example {lacking[0]} has no worked completion, which self-play "
            "imitates"
        )
    if len({e.id for e in task.examples}) < len(task.examples):
        raise DataError(
            f"task {task.name!r}: two examples have the same id; self-play tells them apart by it"
        )
    items = []
    for e in task.examples:
        prompt = as_messages(e.prompt, task.system)
        chat = isinstance(prompt, list) and isinstance(e.completion, str)
        completion: Any = [{"role": "assistant", "content": e.completion}] if chat else e.completion
        items.append(Item(e.id, prompt=prompt, completion=completion))
    return {item.row: sequence for item, sequence in encode_items(items, run.tokenizer)}
