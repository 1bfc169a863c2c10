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
from posttrain.config import Component, EndpointConfig, SamplingConfig
from posttrain.data.templates import as_messages
from posttrain.engines.endpoint import Endpoint
from posttrain.errors import ConfigError
from posttrain.evaluation.strategy import gold_rewards
from posttrain.methods.parts import make_parts, remove_parts
from posttrain.methods.prompting import (
    encode_prompts,
    make_collector,
    make_rewards,
    make_sampling,
    make_task,
)
from posttrain.methods.run import SAMPLES, Job, Run
from posttrain.registry import methods
from posttrain.rewards.base import RewardSet
from posttrain.rollouts.collect import Prompt
from posttrain.rollouts.filter import Rule, filter_metrics, refuse_empty
from posttrain.terminal import write
from posttrain.training.checkpoint import write_text_whole
from posttrain.training.hooks import MetricsWriter
from posttrain.types import Rollout, RolloutGroup, Sampling, Task


@methods.register
def sample(
    run,
    *,
    task: Component,
    rewards: list[Component] = ("task",),  # type: ignore[assignment]
    num_generations: int = 8,
    min_reward: float | None = None,
    top_fraction: float = 1.0,
    max_per_prompt: int | None = None,
    distinct: bool = False,
    keep_truncated: bool = False,
    sampling: SamplingConfig = {},  # type: ignore[assignment]
    endpoint: EndpointConfig | None = None,
    batch_size: int = 64,
) -> Job:
    """Sample num_generations completions of every prompt of a task, reward them, and write
    samples.jsonl.

    A row has prompt, completion, reward, answer and id: what methods offline and sft read. All are
    kept, unless min_reward (rejection sampling), top_fraction (of each batch), max_per_prompt (best
    first) or distinct say otherwise; where the rewards that choose read the gold, the rows are
    reported as an oracle's choice. Completions without a reward, because it failed or does not
    apply, are left out and counted, and so are those cut at the length limit unless keep_truncated.
    batch_size prompts are sampled at a time and kept on disk, so that an interrupted run goes on
    there; samples.jsonl itself appears when it is whole. With `endpoint` a model behind an
    OpenAI-compatible server writes instead of the recipe's, which may then be left out: the teacher
    of sequence-level distillation (arXiv 1606.07947), whose text method sft learns.
    """
    if num_generations < 1:
        raise ConfigError(f"num_generations: {num_generations} must be at least 1")
    rule = Rule(min_reward, top_fraction, max_per_prompt, distinct)
    rule.check_range()
    chooses = min_reward is not None or top_fraction < 1 or max_per_prompt is not None
    gold = gold_rewards(rewards) if chooses else []
    made = make_task(run, task)
    sampled = make_sampling(sampling, made)
    if endpoint is not None:
        _refuse_token_rewards(rewards)
        prompts = [Prompt(e, ()) for e in made.examples]
    else:
        prompts = encode_prompts(run, made, sampled)
    server = None if endpoint is None else Endpoint(endpoint)
    reward_set = make_rewards(run, rewards, made)
    reward_set.self_test(made.examples)
    facts = [
        ("task", f"{made.name}: {len(prompts)} prompts"),
        ("rewards", ", ".join(f"{c.name} x {c.weight:g}" for c in rewards) + " (self-test passed)"),
        ("writer", run.model_path if endpoint is None else f"{endpoint.model} at {endpoint.url}"),
        (
            "sampling",
            f"{num_generations} completions each of at most {sampled.max_tokens} tokens, "
            "temperature "
            f"{sampled.temperature:g}",
        ),
        (
            "kept",
            f"{'any reward' if min_reward is None else f'reward at least {min_reward:g}'}, top "
            f"{top_fraction:.0%} of "
            f"{batch_size} prompts, at most {max_per_prompt or 'all'} a "
            f"prompt{', distinct' if distinct else ''}"
            + (f"; an oracle's choice, by {', '.join(gold)}" if gold else ""),
        ),
    ]

    def execute() -> None:
        started = time.perf_counter()
        if server is not None:
            ask = _asking(server, made, reward_set, sampled, num_generations)
        else:
            ask = make_collector(
                run,
                run.load_model(),
                prompts,
                reward_set,
                sampled,
                batch_size=batch_size,
                num_generations=num_generations,
            ).sample
        run.open()

        def part(some: Sequence[Prompt], number: int) -> dict[str, Any]:
            seeds = np.random.default_rng((run.recipe.seed, number, 13)).integers(
                0, 2**62, size=len(some)
            )
            return _part(made, ask(some, [int(s) for s in seeds]), rule, keep_truncated)

        try:
            parts = make_parts(run, prompts, batch_size, part)
        finally:
            reward_set.close()
        _finish(run, parts, rule, time.perf_counter() - started)
        if gold:
            text = "chose the rows by the gold answer; they teach, and are no result of the model"
            write(run.console, f"oracle: {', '.join(gold)} {text}")

    return Job(facts, execute)


def _asking(
    server: Endpoint, task: Task, rewards: RewardSet, sampling: Sampling, n: int
) -> Callable[[Sequence[Prompt], Sequence[int]], list[RolloutGroup]]:
    """What writes and rewards completions of prompts by asking a server."""

    def write(prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[RolloutGroup]:
        texts = [as_messages(p.example.prompt, task.system) for p in prompts]
        groups = [
            RolloutGroup(p.example, (), [Rollout.of_text(w.text, w.finish_reason) for w in row])
            for p, row in zip(
                prompts, server.complete(texts, sampling, n=n, seeds=seeds), strict=True
            )
        ]
        rewards.reward(groups)
        return groups

    return write


def _refuse_token_rewards(rewards: Sequence[Component]) -> None:
    for reward in rewards:
        if (
            reward.name in registry.rewards.names()
            and "completion_ids" in registry.rewards.entry(reward.name).inputs
        ):
            raise ConfigError(
                f"rewards: {reward.name} reads token ids and an endpoint gives text alone; leave "
                "it out, or sample from a model"
            )


def _part(
    task: Task, groups: list[RolloutGroup], rule: Rule, keep_truncated: bool
) -> dict[str, Any]:
    """Rows of some prompts, and the counts that the metrics are made of."""
    whole = [
        RolloutGroup(
            g.example,
            g.prompt_ids,
            [r for r in g.rollouts if keep_truncated or r.finish_reason == "stop"],
        )
        for g in groups
    ]
    kept = rule.keep(whole)
    rollouts = [r for g in groups for r in g.rollouts]
    rewards = [r.reward for r in rollouts if r.reward is not None]
    return {
        "rows": [_row(task, g, r) for g, row in zip(groups, kept, strict=True) for r in row],
        "count": len(rollouts),
        "rewards": rewards,
        "refused": sum(not g.rollouts for g in groups),
        "truncated": sum(r.finish_reason == "length" for r in rollouts),
        "errors": sum(r.error is not None for r in rollouts),
        "shares": filter_metrics(groups, kept, rule),
    }


def _row(task: Task, group: RolloutGroup, rollout: Rollout) -> dict[str, Any]:
    prompt = as_messages(group.example.prompt, task.system)
    chat = not isinstance(prompt, str)
    return {
        "prompt": prompt,
        "completion": [{"role": "assistant", "content": rollout.text}] if chat else rollout.text,
        "reward": rollout.reward,
        "answer": None if group.example.answer is None else str(group.example.answer),
        "id": group.example.id,
    }


def _finish(run: Run, read: list[dict[str, Any]], rule: Rule, seconds: float) -> None:
    """samples.jsonl from its parts, and what there is to tell of it."""
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
        run.folder / SAMPLES, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    )
    remove_parts(run)
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
    writer = MetricsWriter(run.folder / "metrics.jsonl")
    writer(1, {**metrics, **run.first_metrics})
    writer.close()
    write(
        run.console,
        f"{len(rows)} of {count} completions written to {run.folder / SAMPLES}: mean reward "
        f"{metrics['reward']:.3f}, "
        f"{truncated} not ended, {metrics['rewards/errors']:.0f} rewards failed, "
        f"{metrics['prompts/refused']:.0f} prompts refused",
    )


def _filled(row: dict[str, Any]) -> bool:
    text = (
        row["completion"] if isinstance(row["completion"], str) else row["completion"][0]["content"]
    )
    return bool(text.strip())
