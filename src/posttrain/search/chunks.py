"""Completions that are sampled a number of tokens at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

from posttrain.search.ask import path_room
from posttrain.search.base import Candidate, Ids


async def begun(
    prompt: Ids, ask, num_samples: int, chunk_tokens: int, *, num_top_logprobs: int = 0
) -> list[Candidate]:
    """The first chunks of several samples."""
    bound = min(chunk_tokens, ask.sampling.max_tokens)
    first = await ask(prompt, num_samples, max_tokens=bound, num_top_logprobs=num_top_logprobs)
    return list(first)


async def continued(
    paths: Sequence[Candidate],
    prompt: Ids,
    ask,
    decode: Callable[[Ids], str],
    chunk_tokens: int,
    *,
    num_top_logprobs: int = 0,
) -> list[Candidate]:
    """Each path with one more chunk; all are sampled at the same time.

    A stop string that two chunks hold together ends the path as one in a single chunk does.
    """
    groups = await asyncio.gather(
        *(
            ask(
                (*prompt, *path.ids),
                1,
                max_tokens=min(chunk_tokens, path_room(ask, path.ids)),
                num_top_logprobs=num_top_logprobs,
            )
            for path in paths
        )
    )
    grown = [path.grown(group[0], decode) for path, group in zip(paths, groups, strict=True)]
    return [_stopped(path, ask.sampling.stop) for path in grown]


def is_open(path: Candidate, ask, length_before: int = 0) -> bool:
    """Whether a path can go on: it has not ended, has room, and has grown by its last chunk.

    length_before: tokens of the path before its last chunk.
    """
    return not path.ended and len(path.ids) > length_before and path_room(ask, path.ids) > 0


def _stopped(path: Candidate, stops: Sequence[str]) -> Candidate:
    """The path, ended at the first stop string of its text."""
    if path.ended:
        return path
    places = [(path.text.index(stop), stop) for stop in stops if stop in path.text]
    if not places:
        return path
    place, stop = min(places)
    return replace(path, text=path.text[:place], ended=True, stop_string=stop)
