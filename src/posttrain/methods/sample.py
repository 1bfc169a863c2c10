"""Rows of prompt, completion and reward, sampled from a model: data for offline learning and
for fine-tuning.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from posttrain import registry
from posttrain.config import Component, EndpointConfig, Limits, SamplingConfig
from posttrain.data.account import Account
from posttrain.data.templates import as_messages
from posttrain.engines.endpoint import Endpoint
from posttrain.errors import ConfigError
from posttrain.evaluation.strategy import gold_rewards
from posttrain.files import write_text_whole
from posttrain.methods.evaluate import needed
from posttrain.methods.objects import (
    Rewards,
    TaskLike,
    components_of,
    rewards_of,
    rewards_text,
    task_of,
)
from posttrain.methods.parts import make_parts, remove_parts
from posttrain.methods.prompts import encode_prompts, make_collector, sampling_of, sampling_text
from posttrain.models.spec import ModelSpec
from posttrain.registry import methods
from posttrain.rewards.base import RewardSet
from posttrain.sources.collect import Prompt
from posttrain.sources.selection import Rule, filter_metrics, refuse_empty
from posttrain.terminal import write
from posttrain.training.hooks import MetricsWriter
from posttrain.training.plan import Job, Place, PreparedJob, check_positive
from posttrain.types import Sampling, Task, Trace, TraceGroup

SAMPLES = "samples.jsonl"
"""The rows that a job of sampling or labelling writes."""

Row = dict[str, Any]

Completing = Callable[[Sequence[Prompt], Sequence[int]], list[TraceGroup]]
"""Writes and rewards completions of prompts, by a seed for each."""

_ORACLE = "chose the rows by the gold answer; they teach, and are no result of the model"


@methods.register
def sample(
    task: TaskLike,
    *,
    rewards: Rewards = ("task",),
    num_generations: int = 8,
    min_reward: float | None = None,
    top_fraction: float = 1.0,
    max_per_prompt: int | None = None,
    distinct: bool = False,
    keep_truncated: bool = False,
    sampling: SamplingConfig = SamplingConfig(),
    endpoint: EndpointConfig | None = None,
    batch_size: int = 64,
    limits: Limits = Limits(),
) -> Job:
    """Sample num_generations completions of every prompt of a task, reward them, and write
    samples.jsonl.

    A row has prompt, completion, reward, answer and id: what methods offline and sft read. All are
    written, unless min_reward (rejection sampling), top_fraction, max_per_prompt or distinct say
    otherwise. Where the rewards that choose read the gold, the rows are reported as an oracle's
    choice. Completions without a reward, because it failed or does not apply, are left out and
    counted. An interrupted run goes on after the last batch of prompts; samples.jsonl itself
    appears when it is whole.

    Args:
        task: its prompts, and what the reward "task" asks.
        rewards: names or functions, with weights.
        num_generations: completions per prompt.
        min_reward: the least reward of a row; None = no bound.
        top_fraction: share of each batch's rows with the highest rewards.
        max_per_prompt: rows per prompt, the best first; None = all.
        distinct: write equal completions of a prompt once.
        keep_truncated: whether completions that hit the length limit are written.
        sampling: of the completions.
        endpoint: a model behind an OpenAI-compatible server that writes in the model's place: the
            teacher of sequence-level distillation (arXiv 1606.07947).
        batch_size: prompts that are sampled at a time and saved as a part.
        limits: how much may fail or be dropped.
    """
    settings = dict(locals())
    check_positive(num_generations=num_generations)
    rule = Rule(min_reward, top_fraction, max_per_prompt, distinct)
    rule.check_range()
    items = components_of(rewards)
    gold = gold_rewards(items) if rule.reads_rewards else []
    if endpoint is not None:
        _refuse_token_rewards(items)
    prompt_task = task_of(task)
    sampled = sampling_of(sampling, prompt_task)
    server = None if endpoint is None else Endpoint(endpoint)
    reward_set = rewards_of(items, prompt_task, limits)

    def prepare(spec: ModelSpec | None, seed: int) -> PreparedJob:
        account = Account()
        common = prompt_task, reward_set, sampled, num_generations
        if server is not None:
            writer = _server_writer(server, *common)
        else:
            writer = _model_writer(needed(spec), *common, batch_size, seed, limits, account)

        def run(place: Place) -> list[Row]:
            started = time.perf_counter()
            complete = writer.open()
            place.open()

            def part(some: Sequence[Prompt], number: int) -> Row:
                groups = complete(some, _seeds(seed, number, len(some)))
                return _part(prompt_task, groups, rule, keep_truncated)

            parts = make_parts(place.path, writer.prompts, batch_size, part)
            return _finish(place, parts, rule, gold, account, time.perf_counter() - started)

        facts = [
            ("task", f"{prompt_task.name}: {len(writer.prompts)} prompts"),
            ("rewards", rewards_text(items)),
            ("writer", writer.name),
            ("sampling", f"{num_generations} completions each of {sampling_text(sampled)}"),
            ("selected", _rule_text(rule, batch_size, gold)),
        ]
        return PreparedJob(facts=facts, run=run, account=account, close=reward_set.close)

    return Job(method="sample", settings=settings, prepare=prepare, leaves=SAMPLES)


@dataclass(frozen=True, slots=True)
class _Writer:
    """Who writes the completions.

    name: as a check shows it. prompts: what is completed. open: loads what that takes.
    """

    name: str
    prompts: Sequence[Prompt]
    open: Callable[[], Completing]


def _rule_text(rule: Rule, batch_size: int, gold: Sequence[str]) -> str:
    """Which completions are written. gold: the rewards that choose by the gold answer."""
    least = "any reward" if rule.min_reward is None else f"reward at least {rule.min_reward:g}"
    return (
        f"{least}, top {rule.top_fraction:.0%} of {batch_size} prompts, at most "
        f"{rule.max_per_prompt or 'all'} per prompt{', distinct' if rule.distinct else ''}"
        + (f"; an oracle's choice, by {', '.join(gold)}" if gold else "")
    )


def _seeds(seed: int, number: int, size: int) -> list[int]:
    """A seed for each prompt of a part, from the run's seed and the number of the part."""
    draw = np.random.default_rng((seed, number, 13))
    return [int(s) for s in draw.integers(0, 2**62, size=size)]


def _model_writer(
    spec: ModelSpec,
    task: Task,
    rewards: RewardSet,
    sampling: Sampling,
    num_generations: int,
    batch_size: int,
    seed: int,
    limits: Limits,
    account: Account,
) -> _Writer:
    prompts = encode_prompts(spec, task, sampling, limits=limits, account=account)

    def load() -> Completing:
        settings = rewards, sampling, batch_size, num_generations, seed
        return make_collector(spec.load(), prompts, *settings).sample

    return _Writer(spec.place, prompts, load)


def _server_writer(
    server: Endpoint, task: Task, rewards: RewardSet, sampling: Sampling, n: int
) -> _Writer:

    def complete(prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[TraceGroup]:
        texts = [as_messages(p.example.prompt, task.system) for p in prompts]
        groups = [
            TraceGroup(p.example, (), [Trace.of_text(w.text, w.finish_reason) for w in row])
            for p, row in zip(
                prompts, server.complete(texts, sampling, n=n, seeds=seeds), strict=True
            )
        ]
        rewards.reward(groups)
        return groups

    name = f"{server.config.model} at {server.config.url}"
    return _Writer(name, [Prompt(e, ()) for e in task.examples], lambda: complete)


def _refuse_token_rewards(rewards: Sequence[Component]) -> None:
    for reward in rewards:
        if "completion_ids" in registry.rewards.entry_of(reward).inputs:
            raise ConfigError(
                f"rewards: {reward.name} reads token ids and an endpoint gives text alone; leave "
                "it out, or sample from a model"
            )


def _part(task: Task, groups: list[TraceGroup], rule: Rule, keep_truncated: bool) -> dict[str, Any]:
    """Rows of some prompts, and the counts that the metrics are made of."""
    whole = [
        TraceGroup(
            g.example,
            g.prompt_ids,
            [r for r in g.traces if keep_truncated or r.finish_reason == "stop"],
        )
        for g in groups
    ]
    selected = rule.keep(whole)
    traces = [r for g in groups for r in g.traces]
    rewards = [r.reward for r in traces if r.reward is not None]
    return {
        "rows": [_row(task, g, r) for g, row in zip(groups, selected, strict=True) for r in row],
        "count": len(traces),
        "rewards": rewards,
        "refused": sum(not g.traces for g in groups),
        "truncated": sum(r.finish_reason != "stop" for r in traces),
        "errors": sum(r.error is not None for r in traces),
        "shares": filter_metrics(groups, selected, rule),
    }


def _row(task: Task, group: TraceGroup, trace: Trace) -> dict[str, Any]:
    prompt = as_messages(group.example.prompt, task.system)
    chat = not isinstance(prompt, str)
    return {
        "prompt": prompt,
        "completion": [{"role": "assistant", "content": trace.text}] if chat else trace.text,
        "reward": trace.reward,
        "answer": None if group.example.answer is None else str(group.example.answer),
        "id": group.example.id,
    }


def _finish(
    place: Place,
    parts: list[Row],
    rule: Rule,
    gold: Sequence[str],
    account: Account,
    seconds: float,
) -> list[Row]:
    """samples.jsonl from its parts, and its metrics; returns the rows."""
    rows = [row for part in parts for row in part["rows"] if _filled(row)]
    count = sum(part["count"] for part in parts)
    rewards = [value for part in parts for value in part["rewards"]]
    truncated = sum(part["truncated"] for part in parts)
    refuse_empty(
        len(rows),
        rewards,
        count,
        rule,
        f"sampling ({truncated} of {count} were cut at the length limit)",
    )
    write_text_whole(
        place.path / SAMPLES, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    )
    remove_parts(place.path)
    shares = {
        k: sum(p["shares"][k] * p["count"] for p in parts) / max(count, 1)
        for k in parts[0]["shares"]
        if k != "filter/num_kept"
    }
    metrics = {
        "reward": sum(rewards) / max(len(rewards), 1),
        **shares,
        "filter/num_kept": float(len(rows)),
        "completions/clipped_ratio": truncated / max(count, 1),
        "prompts/refused": float(sum(part["refused"] for part in parts)),
        "rewards/errors": float(sum(part["errors"] for part in parts)),
        "step_time": seconds,
    }
    writer = MetricsWriter(place.path / "metrics.jsonl")
    writer(1, {**metrics, **account.metrics})
    writer.close()
    write(
        place.console,
        f"{len(rows)} of {count} completions{place.written(SAMPLES)}: mean reward "
        f"{metrics['reward']:.3f}, "
        f"{truncated} not ended, {metrics['rewards/errors']:.0f} rewards failed, "
        f"{metrics['prompts/refused']:.0f} prompts refused",
    )
    if gold:
        write(place.console, f"oracle: {', '.join(gold)} {_ORACLE}")
    return rows


def _filled(row: dict[str, Any]) -> bool:
    text = (
        row["completion"] if isinstance(row["completion"], str) else row["completion"][0]["content"]
    )
    return bool(text.strip())
