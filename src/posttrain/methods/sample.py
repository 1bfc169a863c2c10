"""Rows of prompt, completion and reward, sampled from a model: data for offline learning and
for fine-tuning.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
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
from posttrain.methods.prompts import encode_prompts, make_collector, sampling_of
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
    chooses = min_reward is not None or top_fraction < 1 or max_per_prompt is not None
    gold = gold_rewards(items) if chooses else []
    if endpoint is not None:
        _refuse_token_rewards(items)
    prompt_task = task_of(task)
    sampled = sampling_of(sampling, prompt_task)
    server = None if endpoint is None else Endpoint(endpoint)
    reward_set = rewards_of(items, prompt_task, limits)

    def prepare(spec: ModelSpec | None, seed: int) -> PreparedJob:
        account = Account()
        if server is not None:
            prompts = [Prompt(e, ()) for e in prompt_task.examples]
        else:
            spec = needed(spec)
            prompts = encode_prompts(spec, prompt_task, sampled, limits=limits, account=account)

        settings_of_sampling = reward_set, sampled, batch_size, num_generations, seed

        def run(place: Place) -> list[Row]:
            started = time.perf_counter()
            ask = (
                _asking(server, prompt_task, reward_set, sampled, num_generations)
                if server is not None
                else make_collector(needed(spec).load(), prompts, *settings_of_sampling).sample
            )
            place.open()

            def part(some: Sequence[Prompt], number: int) -> Row:
                draw = np.random.default_rng((seed, number, 13))
                seeds = [int(s) for s in draw.integers(0, 2**62, size=len(some))]
                return _part(prompt_task, ask(some, seeds), rule, keep_truncated)

            parts = make_parts(place.path, prompts, batch_size, part)
            rows = _finish(place, parts, rule, account, time.perf_counter() - started)
            if gold:
                write(place.console, f"oracle: {', '.join(gold)} {_ORACLE}")
            return rows

        writer = needed(spec).place if endpoint is None else f"{endpoint.model} at {endpoint.url}"
        return PreparedJob(
            facts=[
                ("task", f"{prompt_task.name}: {len(prompts)} prompts"),
                ("rewards", rewards_text(items)),
                ("writer", writer),
                ("sampling", _sampling_text(num_generations, sampled)),
                ("selected", _rule_text(rule, batch_size, gold)),
            ],
            run=run,
            account=account,
            close=reward_set.close,
        )

    return Job(method="sample", settings=settings, prepare=prepare, leaves=SAMPLES)


def _sampling_text(num_generations: int, sampling: Sampling) -> str:
    return (
        f"{num_generations} completions each of at most {sampling.max_tokens} tokens, temperature "
        f"{sampling.temperature:g}"
    )


def _rule_text(rule: Rule, batch_size: int, gold: Sequence[str]) -> str:
    """Which completions are written. gold: the rewards that choose by the gold answer."""
    least = "any reward" if rule.min_reward is None else f"reward at least {rule.min_reward:g}"
    return (
        f"{least}, top {rule.top_fraction:.0%} of {batch_size} prompts, at most "
        f"{rule.max_per_prompt or 'all'} per prompt{', distinct' if rule.distinct else ''}"
        + (f"; an oracle's choice, by {', '.join(gold)}" if gold else "")
    )


def _asking(
    server: Endpoint, task: Task, rewards: RewardSet, sampling: Sampling, n: int
) -> Callable[[Sequence[Prompt], Sequence[int]], list[TraceGroup]]:
    """What writes and rewards completions of prompts by asking a server."""

    def write(prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[TraceGroup]:
        texts = [as_messages(p.example.prompt, task.system) for p in prompts]
        groups = [
            TraceGroup(p.example, (), [Trace.of_text(w.text, w.finish_reason) for w in row])
            for p, row in zip(
                prompts, server.complete(texts, sampling, n=n, seeds=seeds), strict=True
            )
        ]
        rewards.reward(groups)
        return groups

    return write


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
        "truncated": sum(r.finish_reason == "length" for r in traces),
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
    place: Place, read: list[Row], rule: Rule, account: Account, seconds: float
) -> list[Row]:
    """samples.jsonl from its parts, and its metrics; returns the rows."""
    rows = [row for part in read for row in part["rows"] if _filled(row)]
    count = sum(part["count"] for part in read)
    rewards = [value for part in read for value in part["rewards"]]
    truncated = sum(part["truncated"] for part in read)
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
        k: sum(p["shares"][k] * p["count"] for p in read) / max(count, 1)
        for k in read[0]["shares"]
        if k != "filter/num_kept"
    }
    metrics = {
        "reward": sum(rewards) / max(len(rewards), 1),
        **shares,
        "filter/num_kept": float(len(rows)),
        "completions/clipped_ratio": truncated / max(count, 1),
        "prompts/refused": float(sum(part["refused"] for part in read)),
        "rewards/errors": float(sum(part["errors"] for part in read)),
        "step_time": seconds,
    }
    writer = MetricsWriter(place.path / "metrics.jsonl")
    writer(1, {**metrics, **account.metrics})
    writer.close()
    write(
        place.console,
        f"{len(rows)} of {count} completions written to {place.path / SAMPLES}: mean reward "
        f"{metrics['reward']:.3f}, "
        f"{truncated} not ended, {metrics['rewards/errors']:.0f} rewards failed, "
        f"{metrics['prompts/refused']:.0f} prompts refused",
    )
    return rows


def _filled(row: dict[str, Any]) -> bool:
    text = (
        row["completion"] if isinstance(row["completion"], str) else row["completion"][0]["content"]
    )
    return bool(text.strip())
