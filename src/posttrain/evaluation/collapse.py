"""Whether a model that trains on its own samples collapses: accuracy, diversity and tail of each
generation (Shumailov et al., arXiv 2305.17493; Gerstgrasser et al., arXiv 2404.01413).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from posttrain.types import TraceGroup

Answers = dict[str, Counter[str]]
"""How often each answer was sampled, by the id of the prompt."""


def answers_of(
    groups: Sequence[TraceGroup], extract: Callable[[str], str | None] | None = None
) -> Answers:
    """The answers of sampled completions; the whole text where none can be extracted."""
    table: Answers = {}
    for group in groups:
        counts = table.setdefault(group.example.id, Counter())
        for trace in group.traces:
            answer = extract(trace.text) if extract is not None else None
            counts[trace.text.strip() if answer is None else answer] += 1
    return table


def generation_metrics(
    groups: Sequence[TraceGroup],
    first: Answers,
    *,
    extract: Callable[[str], str | None] | None = None,
    min_reward: float = 1.0,
) -> dict[str, float]:
    """Metrics of what one generation has sampled.

    collapse/accuracy: share of completions with a reward of at least min_reward.
    collapse/solved: share of prompts with such a completion.
    collapse/answers: mean effective number of answers per prompt, exp(-sum_a p_a ln p_a) with p the
    shares among its completions.
    collapse/coverage: of the answers that the first generation sampled for the same prompts, the
    share that is sampled again. collapse/tail: the same of answers that it sampled once, as only
    rare ones are: these are lost first.

    Args:
        groups: completions with rewards.
        first: answers of the first generation, by `answers_of`.
    """
    traces = [trace for group in groups for trace in group.traces]
    passed = [_passes(trace.reward, min_reward) for trace in traces]
    solved = [any(_passes(t.reward, min_reward) for t in group.traces) for group in groups]
    now = answers_of(groups, extract)
    metrics = {
        "collapse/accuracy": sum(passed) / max(len(passed), 1),
        "collapse/solved": sum(solved) / max(len(solved), 1),
        "collapse/answers": _mean([effective_number(counts) for counts in now.values()]),
    }
    both = [(first[name], counts) for name, counts in now.items() if name in first]
    pairs = {
        "collapse/coverage": [(a, n) for old, n in both for a in old],
        "collapse/tail": [(a, n) for old, n in both for a, number in old.items() if number == 1],
    }
    for name, known in pairs.items():
        if known:
            metrics[name] = _mean([float(answer in counts) for answer, counts in known])
    return metrics


def effective_number(counts: Mapping[str, int]) -> float:
    """exp of the entropy of shares: k equally frequent answers give k.

    >>> effective_number({"a": 3, "b": 3})
    2.0
    """
    total = sum(counts.values())
    if not total:
        return 0.0
    entropy = -sum(n / total * math.log(n / total) for n in counts.values() if n)
    return round(math.exp(entropy), 12)


def _passes(reward: float | None, least: float) -> bool:
    return reward is not None and reward >= least


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(len(values), 1)
