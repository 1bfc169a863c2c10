"""The best of several samples by a score."""

from __future__ import annotations

from posttrain.registry import searches
from posttrain.search.base import Selection, select


@searches.register
def best_of_n(prompts, generate, extract, score, *, num_samples: int = 8) -> list[Selection]:
    """Best-of-N: the sample with the highest score; ties go to the higher log-prob per token.

    The policy it samples from moves by KL(best-of-N || policy) <= log N - (N - 1) / N nats (Beirami
    et al., arXiv 2401.01879).
    """
    selections = []
    for index, group in enumerate(generate(prompts, num_samples)):
        scores = score(index, group)
        best = max(range(len(group)), key=lambda i: (scores[i], group[i].mean_logprob))
        selections.append(select(group, best, extract))
    return selections


@searches.register
def most_likely(prompts, generate, extract, *, num_samples: int = 8) -> list[Selection]:
    """Best-of-N by the model's own log-prob per token: needs no verifier."""
    groups = generate(prompts, num_samples)
    return [select(g, max(range(len(g)), key=lambda i: g[i].mean_logprob), extract) for g in groups]
