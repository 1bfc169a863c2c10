"""Reward-balanced search: better paths get more continuations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from posttrain.errors import ConfigError
from posttrain.registry import searches
from posttrain.search.base import Candidate, Selection
from posttrain.search.scores import number_of, softmax
from posttrain.search.steps import Steps, at_least


@searches.register
async def rebase(
    prompt,
    ask,
    extract,
    score,
    decode,
    *,
    num_samples: int = 8,
    balance_temperature: float = 0.1,
    separator: str = "\n",
    max_steps: int = 40,
    choose: Literal["best", "vote", "weighted_vote"] = "weighted_vote",
) -> Selection:
    """REBASE, reward-balanced search (Wu et al., arXiv 2408.00724).

        W_j = B e^(R_j / T) / sum_k e^(R_k / T), in whole numbers that sum to B

    Path j of a depth is continued W_j times by a step; R is its score, and B the number of samples
    that are not completed yet. No path is expanded by a rule of thumb, and each sample is completed
    once. In place of rounding, which may miss B, the largest remainders are rounded up.

    num_samples: completions. balance_temperature: T, in units of the score; small is greedy.
    separator: text that ends a step. max_steps: the last step runs to the end. choose: a vote by
    scores, a plain vote, or the best score.
    """
    at_least("rebase", num_samples=num_samples)
    if not balance_temperature > 0:
        raise ConfigError(
            f"rebase: balance_temperature is {balance_temperature}; it must be above 0"
        )
    steps = Steps("rebase", prompt, ask, decode, separator, max_steps)
    open_paths, widest = [steps.root], 0
    aside: list[Candidate] = []
    while open_paths and not (open_paths[0].steps and ask.budget.is_spent):
        numbers = [number_of(path) / balance_temperature for path in open_paths]
        counts = balanced(num_samples - len(aside), softmax(numbers))
        widest = max([widest, *counts]) if open_paths[0].steps else 0
        expanded = [(path, n) for path, n in zip(open_paths, counts, strict=True) if n]
        groups = await steps.grown([path for path, _ in expanded], [n for _, n in expanded])
        paths = await steps.scored([path for group in groups for path in group], score)
        aside += [path for path in paths if steps.is_done(path)]
        open_paths = [path for path in paths if not steps.is_done(path)]
    return steps.chosen([*aside, *open_paths], extract, choose, max_expansion=widest)


def balanced(total: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers in proportion to shares of 1, by largest remainders; ties go to the first."""
    counts = [int(total * share) for share in shares]
    remainders = [total * share - count for share, count in zip(shares, counts, strict=True)]
    order = sorted(range(len(counts)), key=lambda i: -remainders[i])
    for i in order[: total - sum(counts)]:
        counts[i] += 1
    return counts
