"""Self-training: STaR, ReST-EM, RAFT, rejection-sampling fine-tuning and expert iteration are
settings of this one method.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from posttrain.averages import Averages
from posttrain.config import Limits, SamplingConfig
from posttrain.data.account import Account
from posttrain.data.forest import TokenSequence
from posttrain.data.templates import encode_prompt
from posttrain.errors import ConfigError
from posttrain.inputs import IMITATED
from posttrain.methods.objects import (
    Losses,
    Rewards,
    TaskLike,
    components_of,
    rewards_of,
    task_of,
)
from posttrain.methods.prompts import encode_prompts, make_collector, sampling_of, sampling_text
from posttrain.models.spec import ModelSpec
from posttrain.registry import methods
from posttrain.sources.collect import Collector, Prompt, trained
from posttrain.sources.selected import SelectedRows
from posttrain.sources.selection import Rule, filter_metrics, refuse_empty
from posttrain.training.objective import Objective
from posttrain.training.optim import Schedule
from posttrain.training.plan import (
    AdamW,
    Facts,
    Learner,
    Loop,
    Plan,
    PreparedLoop,
    Rounds,
    Work,
    check_positive,
)
from posttrain.training.rollout_rows import RolloutRow
from posttrain.types import Example, Sampling, Task, Text, TraceGroup


@methods.register(trains="language")
def self_training(
    task: TaskLike,
    *,
    rewards: Rewards = ("task",),
    losses: Losses = ("nll",),
    num_rounds: int = 3,
    steps_per_round: int = 50,
    prompts_per_round: int | None = None,
    num_generations: int = 4,
    min_reward: float | None = 1.0,
    top_fraction: float = 1.0,
    max_per_prompt: int | None = None,
    distinct: bool = True,
    restart: bool = False,
    accumulate: bool = False,
    rationalise: str | None = None,
    sampling: SamplingConfig = SamplingConfig(),
    batch_size: int = 16,
    learning_rate: float = 1e-5,
    lr_scheduler_type: Schedule = "constant_with_warmup",
    limits: Limits = Limits(),
) -> Loop:
    """Rounds of sampling, selection and fine-tuning on what was selected.

    Each round
      1. samples num_generations completions of prompts_per_round prompts with the present model;
      2. selects completions with a reward of at least min_reward, of these the top_fraction, of
         each prompt at most max_per_prompt (the best), equal ones once;
      3. takes steps_per_round updates of batch_size selected completions.
    A round that selects nothing is an error.
      rejection-sampling fine-tuning:   num_rounds: 1
      STaR (arXiv 2203.14465):      num_generations: 1, restart: true, rationalise: ...
      ReST-EM (arXiv 2312.06585):   restart: true, max_per_prompt: 10
      RAFT (arXiv 2304.06767):      min_reward: null, max_per_prompt: 1
      expert iteration:             prompts_per_round: 64, accumulate: true

    Args:
        task: its prompts, and what the reward "task" asks.
        rewards: names or functions, with weights.
        losses: losses of tokens, with weights.
        num_rounds: number of rounds.
        steps_per_round: updates per round.
        prompts_per_round: prompts that a round samples; None = all.
        num_generations: completions per prompt.
        min_reward: the least reward of a selected completion; None = no bound.
        top_fraction: share of these with the highest rewards.
        max_per_prompt: selected completions per prompt; None = all.
        distinct: select equal completions of a prompt once.
        restart: train every round from the weights of the start, with a fresh optimiser. The
            present model only samples.
        accumulate: train on what all rounds selected.
        rationalise: ask a prompt that failed again with its answer, by a text such as "{prompt}
            (the answer is {answer})", which replaces the last user turn of a chat. What passes is
            learnt without the answer in the prompt.
        sampling: of the completions.
        batch_size: completions per update.
        learning_rate: peak learning rate of the run.
        lr_scheduler_type: how the learning rate changes.
        limits: how much may fail or be dropped.
    """
    settings = dict(locals())
    rule = Rule(min_reward, top_fraction, max_per_prompt, distinct)
    rule.check(num_generations)
    check_positive(
        num_rounds=num_rounds, steps_per_round=steps_per_round, prompts_per_round=prompts_per_round
    )
    objective = Objective(components_of(losses), accuracy=True, carries=IMITATED)
    sampled = sampling_of(sampling, prompt_task := task_of(task))
    reward_set = rewards_of(rewards, prompt_task, limits)
    optimizer = AdamW(learning_rate, lr_scheduler_type)

    def prepare(spec: ModelSpec, seed: int, steps: int | None) -> PreparedLoop:
        account = Account()
        prompts = encode_prompts(spec, prompt_task, sampled, limits=limits, account=account)
        hints = _hints(spec, prompt_task, prompts, rationalise, sampled)
        size = min(prompts_per_round or len(prompts), len(prompts))
        number = steps or num_rounds * steps_per_round

        def collector(model: Any) -> Collector:
            return make_collector(model, prompts, reward_set, sampled, size, num_generations, seed)

        learning = objective, optimizer, steps_per_round, batch_size, restart, accumulate
        training = _SelfTraining(collector, hints, rule, number, *learning)
        return PreparedLoop(
            steps=number,
            run=training.run,
            facts=[
                ("task", f"{prompt_task.name}: {len(prompts)} prompts"),
                *training.facts(num_generations, size, sampled),
                ("steps", f"{number}, {num_rounds} rounds"),
            ],
            account=account,
            prompts=prompts,
            restarts=restart,
            close=reward_set.close,
        )

    return Loop(method="self_training", settings=settings, prepare=prepare, optimizer=optimizer)


@dataclass(frozen=True, slots=True)
class _SelfTraining:
    """The rounds of a prepared loop: each samples, selects and imitates.

    collector: of a model, what samples. hints: see `_sampled`. steps: of all rounds.
    """

    collector: Callable[[Any], Collector]
    hints: dict[str, tuple[int, ...]] | None
    rule: Rule
    steps: int
    objective: Objective
    optimizer: AdamW
    steps_per_round: int
    batch_size: int
    restart: bool
    accumulate: bool

    def facts(self, num_generations: int, num_prompts: int, sampling: Sampling) -> Facts:
        """What a round samples, learns from, and how much of it."""
        completions = f"{num_generations} completions of {num_prompts} prompts"
        updates = f"{self.steps_per_round} updates of {self.batch_size} selected completions"
        start = ", from the weights of the start" if self.restart else ""
        return [
            ("a round", f"{completions}, {sampling_text(sampling)}; then {updates}{start}"),
            ("selected", _rule_text(self.rule, again=self.hints is not None)),
        ]

    def run(self, rounds: Rounds) -> None:
        """All rounds, or those that are left."""
        selected: list[TokenSequence] = []
        while rounds.step < self.steps:
            rows = rounds.rows(self.rows)
            selected = [*(selected if self.accumulate else []), *_selected(rows)]
            plan = self.imitation(rounds, rows, selected)
            left = self.steps - rounds.step
            rounds.fit(plan, steps=min(self.steps_per_round, left), restart=self.restart)

    def rows(self, rounds: Rounds, rows: list[RolloutRow]) -> list[RolloutRow]:
        """What the round has sampled: the rows of its file, or new ones."""
        return rows or _sampled(rounds, self.collector(rounds.model), self.rule, self.hints)

    def imitation(
        self, rounds: Rounds, rows: Sequence[RolloutRow], selected: Sequence[TokenSequence]
    ) -> Plan:
        """The plan of the round at hand: what was selected, in batches."""

        def source(learner: Learner) -> SelectedRows:
            sampler = self.collector(learner.model)
            hinted = self.hints is not None
            return SelectedRows(
                selected,
                batch_size=self.batch_size,
                seed=sampler.seed,
                number=rounds.number,
                first=rounds.step,
                groups=[row.group for row in rows if not row.hinted],
                sampling=_metrics(rows, sampler, rounds.number, self.rule, hinted=hinted),
            )

        def prepare(spec: ModelSpec, seed: int, steps: int | None) -> Work:
            assert steps is not None  # a loop says how many a round has
            return Work(steps=steps, source=source, facts=[], samples=True)

        return Plan(
            method="sft", objective=self.objective, prepare=prepare, optimizer=self.optimizer
        )


def _sampled(
    rounds: Rounds,
    collector: Collector,
    rule: Rule,
    hints: dict[str, tuple[int, ...]] | None,
) -> list[RolloutRow]:
    """What a round samples and selects: a function of (seed, round, weights).

    Args:
        hints: prompt tokens that hold the answer, by the example's id. A prompt of which nothing
            was selected is asked once more with its own (rationalisation, STaR).
    """
    number, step = rounds.number, rounds.step
    rows = _rows(step, collector.collect(number), rule)
    if hints is not None:
        failed = [row.group for row in rows if not row.selected]
        prompts = [Prompt(g.example, hints[g.example.id]) for g in failed]
        entropy = (collector.seed, number, 11)
        seeds = np.random.default_rng(entropy).integers(0, 2**62, size=len(failed))
        asked_again = collector.sample(prompts, [int(s) for s in seeds])
        rows += _rows(step, asked_again, rule, hinted=True)
    traces = [r for row in rows if not row.hinted for r in row.group.traces]
    rewards = [r.reward for r in traces if r.reward is not None]
    num_selected = sum(len(row.selected) for row in rows)
    refuse_empty(num_selected, rewards, len(traces), rule, f"round {number + 1}")
    return rows


def _rows(
    step: int, groups: Sequence[TraceGroup], rule: Rule, *, hinted: bool = False
) -> list[RolloutRow]:
    """Groups with the places of what the rule selects."""
    rows = []
    for group, chosen in zip(groups, rule.keep(groups), strict=True):
        place = {id(trace): i for i, trace in enumerate(group.traces)}
        rows.append(RolloutRow(step, group, tuple(place[id(r)] for r in chosen), hinted))
    return rows


def _selected(rows: Sequence[RolloutRow]) -> list[TokenSequence]:
    """The sequences that are trained on. A hint is left out of what is learnt."""
    hinted = iter([row for row in rows if row.hinted])
    with_hints = any(row.hinted for row in rows)
    sequences = []
    for row in rows:
        if row.hinted:
            continue
        source = row if row.selected or not with_hints else next(hinted)
        group = row.group
        sequences += [
            trained(group.prompt_ids, r.sample.ids, group.example.id) for r in source.chosen
        ]
    return sequences


def _metrics(
    rows: Sequence[RolloutRow], collector: Collector, number: int, rule: Rule, *, hinted: bool
) -> Averages:
    """Metrics of what a round has sampled. hinted: whether failed prompts were asked again."""
    first = [row for row in rows if not row.hinted]
    groups = [row.group for row in first]
    averages = Averages()
    averages.merge(collector.metrics(groups, number))
    averages.update(filter_metrics(groups, [row.chosen for row in first], rule))
    if hinted:
        num_selected = sum(len(row.selected) for row in rows if row.hinted)
        averages.update({"filter/rationalised": float(num_selected)})
    return averages


def _rule_text(rule: Rule, *, again: bool) -> str:
    """Which completions are selected. again: whether failed prompts are asked again."""
    return (
        f"reward at least {rule.min_reward}, top {rule.top_fraction:.0%}, at most "
        f"{rule.max_per_prompt or 'all'} per prompt"
        + (", distinct" if rule.distinct else "")
        + (", failed prompts once more with the answer" if again else "")
    )


def _hints(
    spec: ModelSpec, task: Task, prompts: Sequence[Prompt], text: str | None, sampling: Sampling
) -> dict[str, tuple[int, ...]] | None:
    """Each prompt with its answer in it, as token ids, by the example's id; None without a text
    to put them into.
    """
    if text is None:
        return None
    if "{prompt}" not in text or "{answer}" not in text:
        raise ConfigError(
            f"rationalise: {text!r} must hold {{prompt}} and {{answer}}, which are filled in for "
            "each problem"
        )
    context = spec.context_length()
    hints = {}
    for example in (p.example for p in prompts):
        if example.answer is None:
            raise ConfigError(
                f"rationalise: example {example.id} of task {task.name} has no answer to give; "
                "leave it out"
            )
        ids = encode_prompt(spec.tokenizer, with_answer(example, text), system=task.system)
        if context is not None and len(ids) + sampling.max_tokens > context:
            raise ConfigError(
                f"rationalise: the prompt of {example.id} with its answer has {len(ids)} tokens, "
                "which with "
                f"sampling.max_tokens {sampling.max_tokens} exceed the model's context of "
                f"{context}; lower one of them"
            )
        hints[example.id] = tuple(ids)
    return hints


def with_answer(example: Example, text: str) -> Text:
    """The prompt of an example in a text with {prompt} and {answer}, which takes the place of the
    last user turn of a chat.
    """

    def fill(prompt: str) -> str:
        return text.replace("{prompt}", prompt).replace("{answer}", str(example.answer))

    if isinstance(example.prompt, str):
        return fill(example.prompt)
    last = max(
        (i for i, m in enumerate(example.prompt) if m["role"] == "user"),
        default=len(example.prompt) - 1,
    )
    return [
        {**m, "content": fill(str(m["content"]))} if i == last else m
        for i, m in enumerate(example.prompt)
    ]
