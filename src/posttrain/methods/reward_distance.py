"""How different rewards are on completions that are there already."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.config import Limits
from posttrain.data.rows import rows_of
from posttrain.errors import ConfigError, DataError
from posttrain.evaluation.reward_distance import RewardDistances, reward_distances
from posttrain.methods.objects import Rewards, TaskLike, components_of, rewards_of, task_of
from posttrain.tasks.rows import make_task
from posttrain.types import Example, Task, Trace

_OWN = ("step", "id", "prompt", "answer", "completions")

Samples = str | Path | Iterable[Mapping[str, Any]]


def reward_distance(
    samples: Samples,
    *,
    rewards: Rewards = (),
    task: TaskLike | None = None,
    seed: int = 0,
    limits: Limits = Limits(),
    output: str | Path | None = None,
) -> RewardDistances:
    """EPIC distances between rewards on the same completions, without any training (Gleave et al.,
    arXiv 2006.13900).

        print(pt.reward_distance("runs/grpo", rewards=["task", "length"]))

    0 says that two rewards order the completions of every prompt alike, 1 that they oppose each
    other; 0.71 is that of unrelated ones. What is added per prompt, and any positive factor, makes
    no difference.

    Args:
        samples: the folder of a run (its rollouts.jsonl), a file of such lines, or rows with
            prompt and completions, which are texts or dictionaries with text and rewards. Other
            columns reach rewards by name.
        rewards: rewards to call, beside those that the completions hold.
        task: what the reward "task" asks. Its examples are found by the ids of the samples, so that
            rewards get their columns.
        seed: of the bootstrap.
        limits: how much may fail.
        output: a file for the distances as JSON.
    Raises:
        ConfigError, DataError: there are fewer than two rewards, or nothing to compare them on.
    """
    groups = _groups(samples)
    problems = task_of(task) if task is not None else None
    examples = _examples(groups, problems)
    texts = [[_text(c) for c in group["completions"]] for group in groups]
    values = _recorded(groups)
    whole = problems or make_task(examples, name="samples")
    for component in components_of(rewards) if rewards else ():
        if component.name in values and component.function is None:
            continue  # it is recorded
        reward_set = rewards_of([component], whole, limits)
        try:
            pairs = [(e, Trace.of_text(t)) for e, g in zip(examples, texts) for t in g]
            scores = iter(reward_set.score_pairs(pairs))
        finally:
            reward_set.close()
        values[reward_set.names[0]] = [[next(scores) for _ in group] for group in texts]
    if len(values) < 2:
        there = f"only {next(iter(values))!r}" if values else "no reward"
        raise ConfigError(
            f"reward_distance: there is {there}; name at least two rewards, or give completions "
            "that hold them"
        )
    result = reward_distances(_finite(values), seed=seed)
    if output is not None:
        Path(output).write_text(json.dumps(result.as_dict(), indent=1) + "\n")
    return result


def _groups(samples: Samples) -> list[dict[str, Any]]:
    if isinstance(samples, str | Path) and Path(samples).is_dir():
        samples = Path(samples) / "rollouts.jsonl"
    rows: Any = str(samples) if isinstance(samples, Path) else samples
    groups = [dict(row) for row in rows_of(rows)]
    for number, group in enumerate(groups):
        if "prompt" not in group or not isinstance(group.get("completions"), Sequence):
            raise DataError(
                f"reward_distance: row {number} needs the columns prompt and completions, a list; "
                f"there are {', '.join(group)}"
            )
    return groups


def _examples(groups: Sequence[Mapping[str, Any]], task: Task | None) -> list[Example]:
    known = {e.id: e for e in task.examples} if task is not None else {}
    examples = []
    for number, group in enumerate(groups):
        name = str(group.get("id", number))
        columns = {key: value for key, value in group.items() if key not in _OWN}
        own = Example(group["prompt"], None, group.get("answer"), columns, id=name)
        examples.append(known.get(name, own))
    return examples


def _text(completion: Any) -> str:
    return str(completion["text"]) if isinstance(completion, Mapping) else str(completion)


def _recorded(groups: Sequence[Mapping[str, Any]]) -> dict[str, list[list[float]]]:
    """Rewards that every completion holds under the same name."""
    held = [c for g in groups for c in g["completions"]]
    if not held or not all(isinstance(c, Mapping) and c.get("rewards") for c in held):
        return {}
    names = [n for n in held[0]["rewards"] if all(n in c["rewards"] for c in held)]
    return {
        name: [[_number(c["rewards"][name]) for c in g["completions"]] for g in groups]
        for name in names
    }


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _finite(values: Mapping[str, list[list[float]]]) -> dict[str, list[list[float]]]:
    """The completions that all rewards have judged."""
    tables = list(values.values())
    kept = [
        [i for i in range(len(group)) if all(np.isfinite(t[place][i]) for t in tables)]
        for place, group in enumerate(tables[0])
    ]
    return {
        name: [[group[i] for i in places] for group, places in zip(groups, kept)]
        for name, groups in values.items()
    }
