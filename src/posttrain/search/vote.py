"""Sampling once, and voting over several samples."""

from __future__ import annotations

import math

from posttrain.registry import searches
from posttrain.search.base import Candidate, Selection, select


@searches.register
def sample(prompts, generate, extract) -> list[Selection]:
    """One sample: the baseline that every strategy with num_samples 1 equals."""
    return [select(group, 0, extract) for group in generate(prompts, 1)]


@searches.register
def majority_vote(prompts, generate, extract, *, num_samples: int = 8) -> list[Selection]:
    """Self-consistency: the most frequent answer of several samples (Wang et al., arXiv
    2203.11171).

    Candidates without an answer do not vote. Ties go to the answer whose best candidate has the
    highest log-prob per token. The candidate shown is the best of those that gave the answer.
    """
    return [_vote(group, [1.0] * len(group), extract) for group in generate(prompts, num_samples)]


@searches.register
def weighted_vote(prompts, generate, extract, score, *, num_samples: int = 8) -> list[Selection]:
    """Weighted best-of-N: the answer with the largest sum of scores (Li et al., arXiv
    2206.02336).
    """
    groups = generate(prompts, num_samples)
    return [_vote(group, score(index, group), extract) for index, group in enumerate(groups)]


def _vote(group: list[Candidate], weights: list[float], extract) -> Selection:
    answers = [extract(c.text) for c in group]
    votes: dict[str, float] = {}
    for answer, weight in zip(answers, weights, strict=True):
        if answer is not None and weight > -math.inf:  # a candidate that has no score has no vote
            votes[answer] = votes.get(answer, 0.0) + weight
    if not votes:
        return select(group, max(range(len(group)), key=lambda i: group[i].mean_logprob), extract)
    best = max(
        (i for i, a in enumerate(answers) if a in votes),
        key=lambda i: (votes[answers[i]], group[i].mean_logprob),
    )
    return select(group, best, extract, votes)
