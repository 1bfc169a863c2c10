"""Sampling once, and voting over several samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from posttrain.registry import searches
from posttrain.search.base import Candidate, Selection, select


@searches.register
async def sample(prompt, ask, extract) -> Selection:
    """One sample: the baseline that every strategy with num_samples 1 equals."""
    return select(await ask(prompt), 0, extract)


@searches.register
async def majority_vote(prompt, ask, extract, *, num_samples: int = 8) -> Selection:
    """Self-consistency: the most frequent answer of several samples (Wang et al., arXiv
    2203.11171).

    Candidates without an answer do not vote. Ties go to the answer whose best candidate has the
    highest log-prob per token. The candidate shown is the best of those that gave the answer.
    """
    candidates = await ask(prompt, num_samples)
    return vote(candidates, [1.0] * len(candidates), extract)


@searches.register
async def weighted_vote(prompt, ask, extract, score, *, num_samples: int = 8) -> Selection:
    """Weighted best-of-N: the answer with the largest sum of scores (Li et al., arXiv
    2206.02336).
    """
    candidates = await ask(prompt, num_samples)
    scores = await score(candidates)
    return vote([c.scored(s) for c, s in zip(candidates, scores, strict=True)], scores, extract)


def vote(
    candidates: list[Candidate],
    weights: Sequence[float],
    extract: Callable[[str], str | None],
    **notes: float,
) -> Selection:
    """The answer with the largest sum of weights, and its candidate with the highest log-prob per
    token.

    Without any answer the likeliest candidate is chosen. weights: -inf has no vote. notes: numbers
    to report.
    """
    answers = [extract(c.text) for c in candidates]
    votes: dict[str, float] = {}
    for answer, weight in zip(answers, weights, strict=True):
        if answer is not None and weight > -math.inf:  # a candidate that has no score has no vote
            votes[answer] = votes.get(answer, 0.0) + weight
    if not votes:
        likeliest = max(range(len(candidates)), key=lambda i: candidates[i].mean_logprob)
        return select(candidates, likeliest, extract, None, **notes)
    places = [
        (votes[a], candidates[i].mean_logprob, i) for i, a in enumerate(answers) if a in votes
    ]
    best = max(places, key=lambda place: place[:2])[2]
    return select(candidates, best, extract, votes, **notes)
