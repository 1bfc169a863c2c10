"""Sampling once, and voting over several samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from posttrain.registry import searches
from posttrain.search.base import Candidate, Selection, select
from posttrain.search.scores import softmax


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
    2206.02336). Scores below 0 are made weights by a softmax, see `vote`.
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

        argmax_a sum_{i : answer_i = a} w_i,  or of softmax(w)_i where some w_i < 0

    A sum of negative weights falls with every further vote, so that the vote would be inverted.
    Scores that can be negative, such as those of a Bradley-Terry reward model or log-probs, are
    known up to a constant of the prompt. Their softmax is the probability that a candidate is the
    preferred one of all (Luce, Individual Choice Behavior, 1959; Plackett, 1975), and the softmax
    of log-probs is their share of the probability. Note softmax_weights is 1 there.

    Without any answer the likeliest candidate is chosen. weights: -inf has no vote. notes: numbers
    to report.
    """
    if any(-math.inf < weight < 0 for weight in weights):
        weights = [w or -math.inf for w in softmax(weights)]  # 0 where there was no score
        notes = {**notes, "softmax_weights": 1.0}
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
