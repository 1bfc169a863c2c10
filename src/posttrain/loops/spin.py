"""Self-play fine-tuning: the data's completions against the model's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
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
from posttrain.sources.collect import Collector, Sampled
from posttrain.sources.preferences import Pair, PairSource, against_data
from posttrain.training.objective import Objective
from posttrain.training.optim import Schedule
from posttrain.training.plan import (
    AdamW,
    Learner,
    Loop,
    Plan,
    PreparedLoop,
    Rounds,
    Work,
    check_positive,
    steps_of,
)
from posttrain.training.rollout_rows import RolloutRow
from posttrain.types import Task, TraceGroup


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
) -> Loop:
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
    check_positive(num_rounds=num_rounds)
    objective = Objective(
        components_of(losses), roles=("chosen", "rejected"), carries=SAMPLED_PAIRS
    )
    _check(objective)
    optimizer = AdamW(learning_rate, lr_scheduler_type)
    worked = task_of(task)
    sampled = sampling_of(sampling, worked)
    reward_set = rewards_of(rewards, worked, limits)

    def prepare(spec: ModelSpec, seed: int, steps: int | None) -> PreparedLoop:
        account = Account()
        prompts = encode_prompts(spec, worked, sampled, limits=limits, account=account)
        pair = against_data(_worked_completions(spec, worked))
        per_round = steps_of(None, num_train_epochs, prompt_steps(prompts, batch_size))
        number = steps or num_rounds * per_round
        share = max(-(-number // num_rounds), 1)

        def collector(model: Any) -> Collector:
            return make_collector(model, prompts, reward_set, sampled, batch_size, 1, seed)

        def run(rounds: Rounds) -> None:
            while rounds.step < number:
                end = min(rounds.step + share, number)
                rows = rounds.rows(partial(_sampled, collector, pair, end))
                plan = _against_opponent(objective, optimizer, pair, collector, rows)
                rounds.fit(plan, steps=end - rounds.step)

        return PreparedLoop(
            steps=number,
            run=run,
            facts=[
                ("task", f"{worked.name}: {len(prompts)} worked examples"),
                ("losses", losses_text(objective)),
                ("rounds", f"{num_rounds} of {share} steps of {batch_size} pairs"),
            ],
            account=account,
            prompts=prompts,
            by_steps="rounds are equal shares of the steps",
            close=reward_set.close,
        )

    return Loop(method="spin", settings=settings, prepare=prepare, optimizer=optimizer)


def _check(objective: Objective) -> None:
    if not objective.needs_reference:
        raise ConfigError(
            "losses: self-play compares with the opponent, so a loss with a reference is needed, "
            "such as dpo"
        )


def _sampled(
    collector: Callable[[Any], Collector],
    pair: Callable[[TraceGroup], Pair | None],
    end: int,
    rounds: Rounds,
    rows: list[RolloutRow],
) -> list[RolloutRow]:
    """The opponent's completions for the steps of the round, up to `end`.

    Args:
        rows: those of earlier steps, where the round was shorter before.
    """
    done = {row.step for row in rows}
    missing = [step for step in range(rounds.step, end) if step not in done]
    if not missing:
        return rows
    opponent = collector(rounds.model)
    sampled = [(step, group) for step in missing for group in opponent.collect(step)]
    more = [RolloutRow(step, g, (0,) if pair(g) is not None else ()) for step, g in sampled]
    return [*rows, *more]


def _against_opponent(
    objective: Objective,
    optimizer: AdamW,
    pair: Callable[[TraceGroup], Pair | None],
    collector: Callable[[Any], Collector],
    rows: Sequence[RolloutRow],
) -> Plan:
    """The plan of a round: pairs that are there already. Its reference is the model as the round
    starts, which is the opponent.
    """
    groups: dict[int, list[TraceGroup]] = {}
    for row in rows:
        groups.setdefault(row.step, []).append(row.group)

    def source(learner: Learner) -> PairSource:
        sampled = Sampled(collector(learner.model), groups)
        return PairSource(sampled, pair, model=learner.model, whole=objective.whole)

    def prepare(spec: ModelSpec, seed: int, steps: int | None) -> Work:
        assert steps is not None  # a loop says how many a round has
        return Work(steps=steps, source=source, facts=[], samples=True)

    return Plan(method="dpo", objective=objective, prepare=prepare, optimizer=optimizer)


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
