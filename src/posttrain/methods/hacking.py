"""Measure how far proxies can be trusted under best-of-N: proxy and gold reward against KL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from posttrain.config import Limits, SamplingConfig
from posttrain.data.account import Account
from posttrain.errors import ConfigError
from posttrain.evaluation.hacking import Hacking, hacking_of, regularized_scores
from posttrain.methods.objects import (
    ModelLike,
    Rewards,
    TaskLike,
    components_of,
    rewards_of,
    task_of,
)
from posttrain.methods.prompts import encode_prompts, make_collector, sampling_of
from posttrain.model_config import model_name
from posttrain.models.spec import model_spec
from posttrain.rewards.base import RewardSet
from posttrain.terminal import write
from posttrain.types import Example, Sampling, Trace, TraceGroup

Numbers = NDArray[np.float64]
ORACLE = "oracle: watched, never chosen by"


def hacking(
    model: ModelLike,
    task: TaskLike,
    *,
    proxies: Mapping[str, Rewards],
    gold: Rewards,
    num_samples: int = 64,
    num_examples: int = 100,
    kl_weights: Sequence[float] = (),
    length_weights: Sequence[float] = (),
    sampling: SamplingConfig | Sampling = SamplingConfig(),
    seed: int = 0,
    limits: Limits = Limits(),
    console: Console | None = None,
    output: str | Path | None = None,
) -> Hacking:
    """Proxy and gold reward of best-of-N against N and KL, on the same samples.

        result = pt.hacking(
            model, task, proxies={"one": pt.reward.reward_model, ...}, gold="task", num_samples=128
        )
        print(result)
        result.save("runs/hacking")

    Args:
        model: what samples.
        task: its prompts, and what the reward "task" asks.
        proxies: rewards by a name of yours, each one or several with weights. Ensembles of reward
            models are settings of the reward `reward_model`.
        gold: what is really wanted. It is an oracle: it is watched and chooses nothing.
        num_samples: samples per prompt. N is 1, 2, 4, ... up to it.
        num_examples: the first so many prompts.
        kl_weights: of regularised best-of-N by the first proxy: s + w log policy(y | x), one curve
            per weight in scores per nat (arXiv 2404.01054).
        length_weights: the same with s - w |y|, in scores per token.
        sampling: of the completions.
        seed: of the samples and of the bootstrap.
        limits: how much may fail or be dropped.
        console: where the oracle is named; None prints nothing.
        output: a folder for hacking.json, hacking.svg and hacking.txt.

    Raises:
        ConfigError, DataError: what cannot be measured, before any weights are loaded.
    """
    _check(proxies, num_samples, num_examples, [*kl_weights, *length_weights])
    problems = task_of(task)
    golden = rewards_of(gold, problems, limits)
    sets = {name: rewards_of(items, problems, limits) for name, items in proxies.items()}
    spec = model_spec(model)
    sampled = sampling_of(sampling, problems)
    prompts = encode_prompts(
        spec, problems, sampled, limits=limits, account=Account(), num_examples=num_examples
    )
    gold_name = ", ".join(c.name for c in components_of(gold))
    if console is not None:
        write(console, f"gold reward {gold_name}: {ORACLE}", style="yellow")
    try:
        collector = make_collector(
            spec.load(), prompts, None, sampled, len(prompts), num_samples, seed
        )
        groups = collector.collect(0)
        truth = scores_of(golden, groups)
        whole = np.isfinite(truth).all(axis=1)
        if whole.sum() < 2:
            raise ConfigError(
                f"gold: {gold_name} rewards all samples of {int(whole.sum())} prompts, and at "
                "least 2 are needed; mend it, or take another"
            )
        tables = {name: scores_of(rewards, groups)[whole] for name, rewards in sets.items()}
    finally:
        for rewards in (golden, *sets.values()):
            rewards.close()
    first = next(iter(tables))
    groups = [groups[place] for place in np.flatnonzero(whole)]
    for label, weights, costs in (
        ("kl", kl_weights, [[-sum(t.sample.raw_logprobs) for t in g.traces] for g in groups]),
        ("length", length_weights, [[t.num_sampled for t in g.traces] for g in groups]),
    ):
        for weight in weights:
            name = f"{first}, {label} {weight:g}"
            tables[name] = regularized_scores(tables[first], costs, weight)
    name = model_name(str(spec.place))
    result = hacking_of(problems.name, name, gold_name, tables, truth[whole], seed=seed)
    if output is not None:
        result.save(output)
    return result


def scores_of(rewards: RewardSet, groups: Sequence[TraceGroup]) -> Numbers:
    """Rewards [P, N] of completions, -inf where there is none. The traces stay as they are."""
    pairs: list[tuple[Example, Trace]] = [
        (g.example, Trace(list(t.turns))) for g in groups for t in g.traces
    ]
    return np.array(rewards.score_pairs(pairs), dtype=np.float64).reshape(len(groups), -1)


def _check(proxies: Any, num_samples: int, num_examples: int, weights: Sequence[float]) -> None:
    """Refuse what gives no curve."""
    if not isinstance(proxies, Mapping) or not proxies:
        raise ConfigError(
            "hacking: proxies must name at least one reward, such as "
            '{"reward model": {"name": "reward_model", "path": "runs/reward/model"}}'
        )
    if num_samples < 2 or num_examples < 2:
        raise ConfigError(
            f"hacking: num_samples is {num_samples} and num_examples {num_examples}; both must be "
            "at least 2"
        )
    if any(not 0 < weight < np.inf for weight in weights):
        raise ConfigError(
            f"hacking: kl_weights and length_weights are {list(weights)}; each must be above 0 and "
            "finite. Weight 0 is the proxy itself"
        )
