"""Candidates that a strategy writes token by token, by the distribution of the next one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from posttrain.errors import ConfigError
from posttrain.search.ask import Ask
from posttrain.search.base import Candidate, Ids
from posttrain.types import TopTokens

Decode = Callable[[Ids], str]
"""Token ids -> text."""


async def next_tokens(ask: Ask, context: Ids, count: int) -> TopTokens:
    """The likeliest ids behind a context with their log-probs in nats, best first.

    It costs one sampled token. An engine that holds prefixes computes the last token of the context
    alone.

    Returns:
        nothing where no more may be sampled.
    Raises:
        ConfigError: count below 1 or above the vocabulary, or an engine that reports no
            distributions.
    """
    if count < 1:
        raise ConfigError(f"likeliest tokens: {count} were asked for; at least 1 is needed")
    (candidate,) = await ask(context, max_tokens=1, temperature=0.0, num_top_logprobs=count)
    if not candidate.ids:
        return ()
    if not candidate.top_logprobs:
        raise ConfigError(
            "this search reads the distribution of the next token, and the engine does not report "
            "it; sample with the embedded engine"
        )
    return candidate.top_logprobs[0]


def with_token(
    path: Candidate, token: int, top: TopTokens, logprob: float, ask: Ask, decode: Decode
) -> Candidate:
    """A path with one more token, which may end it by its id or by a stop string.

    The text is left empty (see `with_text`), so that a step costs little.

    Args:
        top: the likeliest ids in the token's place. logprob: of the token.
    """
    ids = (*path.ids, token)
    stop_string = None
    if ask.sampling.stop and token not in ask.stop_ids:
        # Every token has at least one byte of a stop string that it is a part of; a few more make
        # up for split characters.
        longest = max(len(s.encode()) for s in ask.sampling.stop) + 4
        tail = decode(ids[-longest:])
        stop_string = next((s for s in ask.sampling.stop if s in tail), None)
    return replace(
        path,
        ids=ids,
        text="",
        logprob=path.logprob + logprob,
        ended=token in ask.stop_ids or stop_string is not None,
        stop_string=stop_string,
        logprobs=(*path.logprobs, logprob),
        top_logprobs=(*path.top_logprobs, top),
    )


def with_text(path: Candidate, decode: Decode) -> Candidate:
    """A path with its text, up to the stop string where one ended it."""
    return replace(path, text=written(path.ids, path.stop_string, decode))


def written(ids: Ids, stop_string: str | None, decode: Decode) -> str:
    """The text of ids, up to a stop string."""
    text = decode(ids)
    return text if stop_string is None else text.partition(stop_string)[0]


def cut_at_stop(path: Candidate, stop: tuple[str, ...], decode: Decode) -> Candidate:
    """A path up to the first token with which its text holds a stop string.

    An engine finds stop strings in what it has sampled itself; this finds those that begin in the
    tokens before. A path without one stays as it is.
    """
    text = decode(path.ids)
    if not any(s in text for s in stop):
        return path
    for count in range(1, len(path.ids) + 1):
        part = decode(path.ids[:count])
        places = [(part.index(s), s) for s in stop if s in part]
        if places:
            break
    at, stop_string = min(places)
    return replace(
        path,
        ids=path.ids[:count],
        text=part[:at],
        logprob=float(sum(path.logprobs[:count])),
        ended=True,
        stop_string=stop_string,
        logprobs=path.logprobs[:count],
        top_logprobs=path.top_logprobs[:count],
    )
