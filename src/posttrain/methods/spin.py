"""Self-play fine-tuning: the data's completions against the model's own."""

from __future__ import annotations

from typing import Any

from posttrain.config import Limits, SamplingConfig
from posttrain.data.account import Account
from posttrain.data.encode import encode_items
from posttrain.data.forest import TokenSequence
from posttrain.data.item import Item
from posttrain.data.templates import as_messages
from posttrain.errors import ConfigError, DataError
from posttrain.inputs import SAMPLED_PAIRS
from posttrain.methods.comparisons import losses_text
from posttrain.methods.objects import (
    Losses,
    Rewards,
    TaskLike,
    components_of,
    rewards_of,
    task_of,
)
from posttrain.methods.prompts import encode_prompts, make_collector, prompt_steps, sampling_of
from posttrain.models.spec import ModelSpec
from posttrain.registry import methods
from posttrain.sources.preferences import PairSource, against_data
from posttrain.training.objective import Objective
from posttrain.training.optim import Schedule
from posttrain.training.plan import AdamW, Learner, Plan, Work, steps_of
from posttrain.training.reference_model import Reference
from posttrain.types import Task


@methods.register(trains="language")
def spin(
    task: TaskLike,
    *,
    rewards: Rewards = ("task",),
    losses: Losses = ("dpo",),
    num_rounds: int = 3,
    sampling: SamplingConfig = SamplingConfig(),
    batch_size: int = 16,
    num_train_epochs: float = 1.0,
    learning_rate: float = 1e-6,
    lr_scheduler_type: Schedule = "constant_with_warmup",
    limits: Limits = Limits(),
) -> Plan:
    """Self-play fine-tuning (SPIN, arXiv 2401.01335): worked completions are chosen, the opponent's
    own are rejected.

    The opponent, which also is the reference, is the model as it was at the start of the round. It
    writes one completion of each prompt. There are num_rounds rounds of num_train_epochs over the
    task (or of equal shares of max_steps). Prompts where it writes the worked completion itself are
    skipped, and counted in pairs/skipped. Rewards are reported and not learnt from.

    Args:
        task: its prompts and worked completions.
        rewards: names or functions, with weights.
        losses: losses of pairs, one of which compares with a reference.
        num_rounds: how often the opponent is taken anew.
        sampling: of the opponent's completions.
        batch_size: pairs per step.
        num_train_epochs: passes over the task in a round, where the number of steps is not set.
        learning_rate: peak learning rate of the run.
        lr_scheduler_type: how the learning rate changes.
        limits: how much may fail or be dropped.
    """
    settings = dict(locals())
    if num_rounds < 1:
        raise ConfigError(f"num_rounds: {num_rounds} must be at least 1")
    objective = Objective(
        components_of(losses), roles=("chosen", "rejected"), carries=SAMPLED_PAIRS
    )
    if not objective.needs_reference:
        raise ConfigError(
            "losses: self-play compares with the opponent, so a loss with a reference is needed, "
            "such as dpo"
        )
    reference = Reference(rounds=num_rounds)
    worked = task_of(task)
    sampled = sampling_of(sampling, worked)
    reward_set = rewards_of(rewards, worked, limits)

    def prepare(spec: ModelSpec, seed: int, steps: int | None) -> Work:
        account = Account()
        prompts = encode_prompts(spec, worked, sampled, limits=limits, account=account)
        completions = _worked_completions(spec, worked)
        per_round = steps_of(None, num_train_epochs, prompt_steps(prompts, batch_size))
        number = steps or num_rounds * per_round

        def source(learner: Learner) -> PairSource:
            collector = make_collector(
                learner.model, prompts, reward_set, sampled, batch_size, 1, seed
            )
            return PairSource(
                collector,
                against_data(completions),
                model=learner.model,
                whole=objective.whole,
                sampler=learner.model.reference,
            )

        steps_text = f"{max(-(-number // num_rounds), 1)} steps of {batch_size} pairs"
        return Work(
            steps=number,
            source=source,
            facts=[
                ("task", f"{worked.name}: {len(prompts)} worked examples"),
                ("losses", losses_text(objective)),
                ("rounds", f"{num_rounds} of {steps_text}"),
            ],
            account=account,
            by_steps="rounds are equal shares of the steps",
            samples=True,
            close=reward_set.close,
        )

    return Plan(
        method="spin",
        settings=settings,
        objective=objective,
        prepare=prepare,
        optimizer=AdamW(learning_rate, lr_scheduler_type),
        reference=reference,
    )


def _worked_completions(spec: ModelSpec, task: Task) -> dict[str, TokenSequence]:
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
        is_chat = isinstance(prompt, list) and isinstance(e.completion, str)
        completion: Any = (
            [{"role": "assistant", "content": e.completion}] if is_chat else e.completion
        )
        items.append(Item(e.id, prompt=prompt, completion=completion))
    return {item.row: sequence for item, sequence in encode_items(items, spec.tokenizer)}
