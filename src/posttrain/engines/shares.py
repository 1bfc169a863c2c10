"""Budgets of requests to an engine that does not keep them: equal shares of what is left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from posttrain.budget import Budget
from posttrain.types import Request, Sample


def generate_within_budgets(engine: Any, requests: Sequence[Request]) -> list[list[Sample]]:
    """`engine.generate(requests)`, no budget exceeded by a token.

    Where the requests of a budget could exceed it, the limit of each of their samples is lowered to
    an equal share of what is left. Where there is not one token for each sample, the first ones get
    one each; the others are empty, with finish_reason "budget".
    """
    places, bounded = _bounded(requests)
    groups: list[list[Sample]] = [[] for _ in requests]
    if bounded:
        for place, group in zip(places, engine.generate(bounded), strict=True):
            groups[place] = list(group)
    for request, part, group in zip(
        requests, _parts(requests, places, bounded), groups, strict=True
    ):
        if request.budget is not None:
            request.budget.spend(sum(len(sample.ids) for sample in group))
            if part is not None and part.sampling.max_tokens < request.sampling.max_tokens:
                for sample in group:
                    if sample.finish_reason == "length":
                        sample.finish_reason = "budget"
        group += [Sample([], [], [], "budget") for _ in range(request.n - len(group))]
    return groups


def _parts(
    requests: Sequence[Request], places: Sequence[int], bounded: Sequence[Request]
) -> list[Request | None]:
    parts: list[Request | None] = [None for _ in requests]
    for place, request in zip(places, bounded, strict=True):
        parts[place] = request
    return parts


def _bounded(requests: Sequence[Request]) -> tuple[list[int], list[Request]]:
    """The requests that may be sampled, within their shares, and their places."""
    allowed = [r.budget is None or r.budget.call() for r in requests]
    rows: Counter[Budget | None] = Counter()
    wanted: Counter[Budget | None] = Counter()
    for request, may in zip(requests, allowed, strict=True):
        if may:
            rows[request.budget] += request.n
            wanted[request.budget] += request.n * request.sampling.max_tokens
    left = {b: b.tokens_left for b in rows if b is not None}
    places, bounded = [], []
    for place, (request, may) in enumerate(zip(requests, allowed, strict=True)):
        budget = request.budget
        if not may:
            continue
        if budget is None or wanted[budget] <= budget.tokens_left:
            places.append(place)
            bounded.append(request)
            continue
        share = int(max(budget.tokens_left // rows[budget], 1))
        n = int(min(request.n, left[budget] // share))
        if n < 1:
            continue
        limit = min(request.sampling.max_tokens, share)
        left[budget] -= n * limit
        sampling = replace(request.sampling, max_tokens=limit)
        places.append(place)
        bounded.append(replace(request, n=n, sampling=sampling))
    return places, bounded
