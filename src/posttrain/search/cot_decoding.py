"""Greedy paths behind several first tokens, and how sure each of them is of its answer."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import replace

from posttrain.errors import ConfigError
from posttrain.registry import searches
from posttrain.search.ask import path_room
from posttrain.search.base import Candidate, Ids, Selection, select
from posttrain.search.token_paths import (
    Decode,
    cut_at_stop,
    next_tokens,
    with_text,
    with_token,
    written,
)
from posttrain.search.vote import vote
from posttrain.types import TopTokens

Extract = Callable[[str], str | None]
"""Text -> its answer, or None."""


@searches.register
async def cot_decoding(
    prompt, ask, extract, decode, *, num_branches: int = 10, aggregate: bool = False
) -> Selection:
    """Chain-of-thought decoding (Wang and Zhou, arXiv 2402.10200).

        branch k:  the k-th likeliest first token, then greedy
        D_k = mean over the tokens t of the answer of  p(x_t | x_<t) - max_{v != x_t} p(v | x_<t)

    The branch with the largest D is chosen; or, with aggregate, the answer with the largest sum of
    D over its branches. For greedy tokens the difference is that of the two likeliest. The tokens
    of the answer are those of its last occurrence in the text. Branches without an answer do not
    compete. One branch is greedy decoding.

    num_branches: k. aggregate: sums over the branches of an answer.
    """
    if num_branches < 1:
        raise ConfigError(f"cot_decoding: num_branches is {num_branches}; it must be at least 1")
    start = Candidate((), "", 0.0, False, context_ids=tuple(prompt))
    # Two at least, since the confidence compares a token with the likeliest other.
    top = await next_tokens(ask, prompt, max(num_branches, 2))
    if not top:
        return select([start], 0, extract)
    firsts = [
        with_text(with_token(start, token, top, logprob, ask, decode), decode)
        for token, logprob in top[:num_branches]
    ]
    branches = await asyncio.gather(*(_continued(path, ask, decode) for path in firsts))
    scored = [path.scored(answer_confidence(path, extract, decode)) for path in branches]
    confidences = [path.score if path.score is not None else -math.inf for path in scored]
    answered = float(sum(c > -math.inf for c in confidences))
    if aggregate:
        return vote(scored, confidences, extract, num_answered=answered)
    best = max(range(len(scored)), key=lambda i: (confidences[i], -i))
    return select(scored, best, extract, num_answered=answered)


async def _continued(path: Candidate, ask, decode: Decode) -> Candidate:
    """A path with what greedy decoding writes behind its first token."""
    if path.ended:
        return path
    (rest,) = await ask(
        (*path.context_ids, *path.ids),
        max_tokens=path_room(ask, path.ids),
        temperature=0.0,
        num_top_logprobs=2,
    )
    whole = replace(path.grown(rest, decode), steps=())
    return cut_at_stop(whole, ask.sampling.stop, decode)


def answer_confidence(path: Candidate, extract: Extract, decode: Decode) -> float:
    """Mean over the tokens of the answer of p(token) - p(likeliest other); -inf without an answer.

    Raises:
        ConfigError: the tokens come without the likeliest ids in their places.
    """
    places = answer_places(path, extract, decode)
    if places is None:
        return -math.inf
    if len(path.top_logprobs) < places.stop:
        raise ConfigError(
            "answer_confidence: the candidate has no likeliest tokens; sample it with "
            "num_top_logprobs of at least 2"
        )
    margins = [_margin(path.ids[t], path.logprobs[t], path.top_logprobs[t]) for t in places]
    return math.fsum(margins) / len(margins)


def _margin(token: int, logprob: float, top: TopTokens) -> float:
    other = max((x for i, x in top if i != token), default=-math.inf)
    return math.exp(logprob) - math.exp(other)


def answer_places(path: Candidate, extract: Extract, decode: Decode) -> range | None:
    """The tokens of the last occurrence of the answer, None where there is no answer.

    They are the shortest tokens at the end of the text from which the answer can be read, without
    what follows it, such as a full stop, and without the mark before it, such as "####".
    """

    def answer_of(ids: Ids) -> str | None:
        return extract(written(ids, path.stop_string, decode)) if ids else None

    answer = extract(path.text)
    if answer is None or not path.ids:
        return None
    ids = path.ids
    start = next((s for s in reversed(range(len(ids))) if answer_of(ids[s:]) == answer), None)
    if start is None:  # it is read from more than the end of the text
        return range(len(ids))
    stop = next(e for e in range(start + 1, len(ids) + 1) if answer_of(ids[start:e]) == answer)
    return _literal(ids, start, stop, answer, decode)


def _literal(ids: Ids, start: int, stop: int, answer: str, decode: Decode) -> range:
    """The tokens of ids[start:stop] whose text is the answer; all where it is written otherwise."""
    at = decode(ids[start:stop]).rfind(answer)
    if at < 0 or not answer:
        return range(start, stop)
    ends = [len(decode(ids[start:e])) for e in range(start + 1, stop + 1)]
    inside = [start + k for k, end in enumerate(ends) if end > at]
    last = next(k for k, end in enumerate(ends) if end >= at + len(answer))
    return range(inside[0], start + last + 1)
