"""Curated self-training: own samples that a filter accepts, and weak labels for what is hard
(Escaping Collapse: The Strength of Weak Data, arXiv 2502.08924).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from posttrain.averages import Averages
from posttrain.config import Limits, SamplingConfig
from posttrain.data.account import Account
from posttrain.data.encode import encode_items
from posttrain.data.forest import TokenSequence
from posttrain.data.item import Item
from posttrain.data.templates import as_messages
from posttrain.errors import ConfigError, DataError
from posttrain.evaluation.collapse import Answers, answers_of, generation_metrics
from posttrain.inputs import IMITATED
from posttrain.loops.curated_rows import Curation, mixture
from posttrain.methods.objects import Losses, Rewards, TaskLike, components_of, rewards_of, task_of
from posttrain.methods.prompts import encode_prompts, make_collector, sampling_of, sampling_text
from posttrain.models.spec import ModelSpec
from posttrain.registry import methods
from posttrain.sources.collect import Collector, trained
from posttrain.sources.selected import SelectedRows
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
)
from posttrain.training.rollout_rows import RolloutRow
from posttrain.types import Example, Sample, Task, Trace, TraceGroup

_COUNTS = ("num_rounds", "steps_per_round", "prompts_per_round", "num_generations")
_TRIES = 20  # other completions that are drawn until one is wrong


@methods.register(trains="language")
def weak_data(
    task: TaskLike,
    *,
    rewards: Rewards = ("task",),
    losses: Losses = ("nll",),
    arm: Literal["none", "filter", "random", "hardest"] = "hardest",
    labels_per_round: int = 16,
    label_accuracy: float = 0.1,
    false_accepts: float = 0.0,
    label_weight: float = 0.2,
    filter_labels: bool = False,
    accumulate: bool = False,
    restart: bool = False,
    num_rounds: int = 5,
    steps_per_round: int = 20,
    prompts_per_round: int | None = None,
    num_generations: int = 4,
    min_reward: float = 1.0,
    sampling: SamplingConfig = SamplingConfig(),
    batch_size: int = 16,
    learning_rate: float = 1e-5,
    lr_scheduler_type: Schedule = "constant_with_warmup",
    limits: Limits = Limits(),
) -> Loop:
    """Self-training on own samples and a few weak labels, most of which may be wrong.

    Each round
      1. samples num_generations completions of prompts_per_round prompts;
      2. keeps those that a filter accepts: a reward of at least min_reward, and of the others a
         share false_accepts by mistake. Prompts without one are hard;
      3. buys labels_per_round labels: the worked completion with probability label_accuracy, else
         that of another example. Draws are fresh each round, and written to rows.jsonl before
         training, so that a resumed run buys none twice;
      4. takes steps_per_round updates on both. The labels' tokens have the share label_weight of
         all weight.
    Arms, for comparison:
      none:       train on all samples: no signal from outside, and no gain
      filter:     accepted samples alone: stops at what the model can sample
      random:     labels for prompts at random
      hardest:    labels for hard prompts, those of the lowest mean reward first (the paper)
    Metrics collapse/* say of each generation how accurate and how diverse its samples are, and how
    much of the first generation's tail it still samples. See `pt.simulate_collapse` for the theory:
    with a perfect filter and labels for all hard prompts, the error is multiplied by
    1 - label_accuracy each round.

    Args:
        task: its prompts, worked completions, and what the reward "task" asks.
        rewards: names or functions, with weights.
        losses: losses of tokens, with weights; one that counts weights.
        arm: what is trained on.
        labels_per_round: labels bought in a round, at most.
        label_accuracy: share of right labels.
        false_accepts: share of samples below min_reward that the filter accepts by mistake.
        label_weight: share of the labels in the weight of all trained tokens.
        filter_labels: labels pass the filter too, with its mistakes.
        accumulate: train on the samples and labels of all rounds; else on those of the last.
        restart: train every round from the weights of the start, with a fresh optimiser.
        num_rounds: number of rounds.
        steps_per_round: updates per round.
        prompts_per_round: prompts that a round samples; None = all.
        num_generations: completions per prompt.
        min_reward: the least reward of a right completion.
        sampling: of the completions.
        batch_size: completions and labels per update.
        learning_rate: peak learning rate of the run.
        lr_scheduler_type: how the learning rate changes.
        limits: how much may fail or be dropped.
    """
    settings = dict(locals())
    _check(settings)
    objective = Objective(components_of(losses), accuracy=True, carries=IMITATED)
    worked = task_of(task)
    sampled = sampling_of(sampling, worked)
    graders = rewards_of(rewards, worked, limits)
    shares = label_accuracy, false_accepts, label_weight
    curation = Curation(arm, labels_per_round, *shares, filter_labels, min_reward, accumulate)
    learning = objective, AdamW(learning_rate, lr_scheduler_type), steps_per_round, batch_size
    shown = f"{sampling_text(sampled)}; then {steps_per_round} updates of {batch_size} rows"

    def prepare(spec: ModelSpec, seed: int, steps: int | None) -> PreparedLoop:
        account = Account()
        prompts = encode_prompts(spec, worked, sampled, limits=limits, account=account)
        size = min(prompts_per_round or len(prompts), len(prompts))
        number = steps or num_rounds * steps_per_round

        def collector(model: Any) -> Collector:
            return make_collector(model, prompts, graders, sampled, size, num_generations, seed)

        facts = [("task", f"{worked.name}: {len(prompts)} prompts")]
        facts += [("a round", f"{num_generations} completions of {size} prompts, {shown}")]
        labels = _labels(spec, worked) if arm in ("random", "hardest") else {}
        training = _WeakData(collector, curation, labels, worked, number, seed, restart, *learning)
        return PreparedLoop(
            steps=number,
            run=training.run,
            facts=facts + curation.facts(number, num_rounds),
            account=account,
            prompts=prompts,
            restarts=restart,
            close=graders.close,
        )

    return Loop(method="weak_data", settings=settings, prepare=prepare, optimizer=learning[1])


def _check(settings: Mapping[str, Any]) -> None:
    check_positive(**{name: settings[name] for name in _COUNTS})
    for name in ("label_accuracy", "false_accepts"):
        if not 0 <= settings[name] <= 1:
            raise ConfigError(f"{name}: {settings[name]} is a share; it must be from 0 to 1")
    if not 0 < settings["label_weight"] < 1:
        raise ConfigError(
            f"label_weight: {settings['label_weight']} is the weight of the labels among all rows; "
            "it must be above 0 and below 1. Leave labels out with arm: filter"
        )
    labels = settings["labels_per_round"]
    if settings["arm"] in ("random", "hardest") and labels < 1:
        raise ConfigError(f"labels_per_round: {labels} must be at least 1; else take arm: filter")


@dataclass(frozen=True, slots=True)
class _WeakData:
    """The rounds of a prepared loop.

    labels: (example, ids of its worked completion) by the example's id. steps: of all rounds.
    """

    collector: Callable[[Any], Collector]
    curation: Curation
    labels: dict[str, tuple[Example, list[int]]]
    task: Task
    steps: int
    seed: int
    restart: bool
    objective: Objective
    optimizer: AdamW
    steps_per_round: int
    batch_size: int

    def run(self, rounds: Rounds) -> None:
        """All rounds, or those that are left."""
        samples: list[TokenSequence] = []
        labels: list[TokenSequence] = []
        first: Answers | None = None
        while rounds.step < self.steps:
            rows = rounds.rows(self.rows)
            if not self.curation.accumulate:
                samples, labels = [], []
            for row in rows:
                (labels if row.hinted else samples).extend(_sequences(row))
            if not samples and not labels:
                raise DataError(
                    f"round {rounds.number + 1}: no sample is accepted and no label is bought, so "
                    "there is nothing to train on; sample more, or take arm: hardest"
                )
            groups = [row.group for row in rows if not row.hinted]
            first = first if first is not None else answers_of(groups, self.task.extract)
            metrics = generation_metrics(
                groups, first, extract=self.task.extract, min_reward=self.curation.min_reward
            )
            metrics |= self._bought(rows)
            plan = self._imitation(
                rounds, rows, mixture(samples, labels, self.curation.label_weight), metrics
            )
            left = self.steps - rounds.step
            rounds.fit(plan, steps=min(self.steps_per_round, left), restart=self.restart)

    def rows(self, rounds: Rounds, rows: list[RolloutRow]) -> list[RolloutRow]:
        """What the round has sampled and bought: the rows of its file, or new ones. Labels are
        marked as hinted. A function of (seed, round, weights).
        """
        if rows:
            return rows
        draw = np.random.default_rng((self.seed, rounds.number, 67))
        groups = self.collector(rounds.model).collect(rounds.number)
        rows = [RolloutRow(rounds.step, g, self.curation.accepted(g, draw)) for g in groups]
        bought = [
            self._label(rounds.step, rows[place].group, draw)
            for place in self.curation.labelled(rows, draw)
        ]
        return [*rows, *bought]

    def _label(self, step: int, group: TraceGroup, draw: np.random.Generator) -> RolloutRow:
        """A weak label of a prompt, as a completion that is selected unless the filter drops it."""
        example, ids = self.labels[group.example.id]
        text, right = _completion_text(example), True
        if draw.random() >= self.curation.label_accuracy:
            names = list(self.labels)
            for _ in range(_TRIES):
                other, other_ids = self.labels[names[int(draw.integers(len(names)))]]
                if self.task.score(_completion_text(other), example) < self.curation.min_reward:
                    text, ids, right = _completion_text(other), other_ids, False
                    break
        zeros = [0.0] * len(ids)
        trace = Trace.of_sample(
            group.prompt_ids,
            Sample(list(ids), zeros, zeros, "stop"),
            text,
            rewards={},
            reward=float(right),
            advantage=0.0,
        )
        passes = (
            not self.curation.filter_labels or right or draw.random() < self.curation.false_accepts
        )
        label = TraceGroup(group.example, group.prompt_ids, [trace])
        return RolloutRow(step, label, (0,) if passes else (), hinted=True)

    def _bought(self, rows: Sequence[RolloutRow]) -> dict[str, float]:
        """What was bought, and of what the round is short."""
        labels = [row.group.traces[0] for row in rows if row.hinted]
        sampled = [row for row in rows if not row.hinted]
        hard = sum(not row.selected for row in sampled) / max(len(sampled), 1)
        values = {"labels/bought": float(len(labels)), "collapse/hard": hard}
        if labels:
            values["labels/right"] = sum(t.reward == 1.0 for t in labels) / len(labels)
        return values

    def _imitation(
        self,
        rounds: Rounds,
        rows: Sequence[RolloutRow],
        trained_on: list[TokenSequence],
        metrics: dict[str, float],
    ) -> Plan:
        """The plan of the round at hand."""
        self.objective.check_weights(trained_on)

        def source(learner: Learner) -> SelectedRows:
            sampler = self.collector(learner.model)
            groups = [row.group for row in rows if not row.hinted]
            averages = Averages()
            averages.merge(sampler.metrics(groups, rounds.number))
            averages.update(metrics)
            return SelectedRows(
                trained_on,
                batch_size=self.batch_size,
                seed=sampler.seed,
                number=rounds.number,
                first=rounds.step,
                groups=groups,
                sampling=averages,
            )

        def prepare(spec: ModelSpec, seed: int, steps: int | None) -> Work:
            assert steps is not None  # a loop says how many a round has
            return Work(steps=steps, source=source, facts=[], samples=True)

        return Plan(
            method="sft", objective=self.objective, prepare=prepare, optimizer=self.optimizer
        )


def _sequences(row: RolloutRow) -> list[TokenSequence]:
    group = row.group
    return [trained(group.prompt_ids, t.sample.ids, group.example.id) for t in row.chosen]


def _completion_text(example: Example) -> str:
    completion = example.completion
    return completion if isinstance(completion, str) else str(completion[-1]["content"])  # type: ignore[index]


def _labels(spec: ModelSpec, task: Task) -> dict[str, tuple[Example, list[int]]]:
    """The ids of each example's worked completion.

    Raises:
        DataError: an example has none, or two have one id.
    """
    lacking = [e.id for e in task.examples if not e.completion]
    if lacking:
        raise DataError(
            f"task {task.name!r}: example {lacking[0]} has no worked completion, which labels are "
            "taken from; take arm: filter, or a task with completions"
        )
    if len({e.id for e in task.examples}) < len(task.examples):
        raise DataError(f"task {task.name!r}: two examples have the same id, which labels need")
    items = []
    for e in task.examples:
        prompt, completion = as_messages(e.prompt, task.system), e.completion
        if isinstance(prompt, list) and isinstance(completion, str):
            completion = [{"role": "assistant", "content": completion}]
        items.append(Item(e.id, prompt=prompt, completion=completion))
    ids = {
        item.row: [int(i) for i in sequence.ids[sequence.loss_mask]]
        for item, sequence in encode_items(items, spec.tokenizer)
    }
    return {e.id: (e, ids[e.id]) for e in task.examples}
