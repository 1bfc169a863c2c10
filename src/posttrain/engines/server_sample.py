"""From the choices of a server's answer to samples of ids."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.engines.characters import END, piece_id, split_pieces
from posttrain.engines.endpoint import Endpoint, Written
from posttrain.errors import EndpointError
from posttrain.types import FinishReason, Request, Sample

Top = tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """One completion of an answer.

    num_tokens: by the server's count; of several choices without log-probs the total is shared by
    length. tokens, logprobs, top: as far as the server gave them, else empty. stop: the stop string
    that ended it, where the server says it.
    """

    written: Written
    num_tokens: int
    prompt_tokens: int
    tokens: tuple[str, ...] = ()
    logprobs: tuple[float, ...] = ()
    top: tuple[Top, ...] = ()
    stop: str | None = None


def choices_of(endpoint: Endpoint, answer: Any) -> list[Choice]:
    """The choices of an answer with their counts of tokens.

    Raises:
        EndpointError: the answer has no usage, or is malformed.
    """
    written = endpoint.written(answer)
    usage = getattr(answer, "usage", None)
    total, prompt = (getattr(usage, f"{n}_tokens", None) for n in ("completion", "prompt"))
    if not isinstance(total, int):
        raise EndpointError(
            f"{endpoint.config.model} at {endpoint.config.url} does not say how many tokens it "
            "wrote (usage.completion_tokens), without which no budget can be kept; take a server "
            "that reports usage"
        )
    try:
        details = [_details(choice) for choice in answer.choices]
    except (AttributeError, TypeError, ValueError):  # log-probs of another shape
        details = [((), (), ()) for _ in written]
    counts = _shares(total, [len(w.text) + 1 for w in written])
    if all(tokens for tokens, _, _ in details) and sum(len(d[0]) for d in details) == total:
        counts = [len(tokens) for tokens, _, _ in details]
    choices = []
    for choice, w, count, (tokens, logprobs, top) in zip(
        answer.choices, written, counts, details, strict=True
    ):
        stop = getattr(choice, "stop_reason", None)
        of_tokens = (tokens, logprobs, top) if len(tokens) == count else ((), (), ())
        reason = stop if isinstance(stop, str) else None
        choices.append(Choice(w, count, prompt or 0, *of_tokens, stop=reason))
    return choices


def _shares(total: int, weights: Sequence[int]) -> list[int]:
    """A total in whole parts, as near to the weights as it goes."""
    whole = sum(weights)
    edges = [0, *(total * sum(weights[: i + 1]) // whole for i in range(len(weights)))]
    return [b - a for a, b in itertools.pairwise(edges)]


def _details(choice: Any) -> tuple[tuple[str, ...], tuple[float, ...], tuple[Top, ...]]:
    """Tokens, log-probs and alternatives of a choice of either route; empty where it has none."""
    logprobs = getattr(choice, "logprobs", None)
    content = getattr(logprobs, "content", None)
    if content:  # chat
        return (
            tuple(entry.token for entry in content),
            tuple(float(entry.logprob) for entry in content),
            tuple(
                tuple((a.token, float(a.logprob)) for a in entry.top_logprobs or ())
                for entry in content
            ),
        )
    tokens = getattr(logprobs, "tokens", None)
    if not tokens:
        return (), (), ()
    values = getattr(logprobs, "token_logprobs", None) or []
    tops = getattr(logprobs, "top_logprobs", None) or []
    numbers = tuple(math.nan if value is None else float(value) for value in values)
    best = tuple(
        tuple(sorted(((k, float(v)) for k, v in (top or {}).items()), key=lambda item: -item[1]))
        for top in tops
    )
    return tuple(tokens), numbers if len(numbers) == len(tokens) else (), best


def sample_of(choice: Choice, request: Request, *, was_cut: bool) -> Sample:
    """A choice as a sample: one id per token of the server.

    The stop string is part of the ids, as an embedded engine leaves it. Where a server does not say
    what ended a text, neither by stop_reason nor by its tokens, a text that is not empty is taken
    to have met the last of the stop strings, and an empty one the end.

    was_cut: a budget had fewer tokens than the request asked for.
    """
    written, stops = choice.written, request.sampling.stop
    ended = written.finish_reason == "stop"
    joined = "".join(choice.tokens)
    known = bool(choice.tokens) and joined.startswith(written.text)
    stop = choice.stop if choice.stop in stops else None
    if ended and stop is None and stops:
        if known:
            # The token that completes a stop string may go on behind it.
            stop = next((s for s in stops if joined[len(written.text) :].startswith(s)), None)
        elif written.text:
            stop = stops[-1]
    ids = _ids(choice, stop, ended=ended, known=known)
    logprobs = list(choice.logprobs) if len(choice.logprobs) == len(ids) else []
    reason: FinishReason = "stop" if ended else "budget" if was_cut else "length"
    top: list[Any] = []
    if request.num_top_logprobs and len(choice.top) == len(ids):
        top = [
            tuple((piece_id(t), v) for t, v in best[: request.num_top_logprobs])
            for best in choice.top
        ]
    return Sample(ids, logprobs, list(logprobs), reason, stop, top_logprobs=top)


def _ids(choice: Choice, stop: str | None, *, ended: bool, known: bool) -> list[int]:
    text = choice.written.text
    if known:
        ids, place = [], 0
        for token in choice.tokens:
            is_end = stop is None and place >= len(text) and ended
            ids.append(END if is_end else piece_id(token))
            place += len(token)
        return ids
    if not choice.num_tokens:
        return []
    if ended and stop is None and (choice.num_tokens > 1 or not text):
        return [*split_pieces(text, choice.num_tokens - 1), END]
    return split_pieces(text + (stop or ""), choice.num_tokens)
