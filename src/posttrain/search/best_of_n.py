"""The best of several samples by a score."""

from __future__ import annotations

from posttrain.registry import searches
from posttrain.search.base import Selection, select
from posttrain.search.scores import best_place, scored


@searches.register
async def best_of_n(prompt, ask, extract, score, *, num_samples: int = 8) -> Selection:
    """Best-of-N: the sample with the highest score; ties go to the higher log-prob per token.

    The policy it samples from moves by KL(best-of-N || policy) <= log N - (N - 1) / N nats (Beirami
    et al., arXiv 2401.01879).
    """
    candidates = await scored(await ask(prompt, num_samples), score)
    return select(candidates, best_place(candidates), extract)


@searches.register
async def most_likely(prompt, ask, extract, *, num_samples: int = 8) -> Selection:
    """Best-of-N by the model's own log-prob per token: needs no verifier."""
    candidates = await ask(prompt, num_samples)
    return select(
        candidates, max(range(len(candidates)), key=lambda i: candidates[i].mean_logprob), extract
    )
