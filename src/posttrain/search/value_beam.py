"""Step-wise beam search that a critic guides."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from posttrain.errors import ConfigError
from posttrain.registry import searches
from posttrain.search.ask import path_room
from posttrain.search.base import Candidate, Selection, distinct, select
from posttrain.search.steps import is_done, is_ended, last_state


@searches.register
async def value_beam(
    prompt,
    ask,
    extract,
    value,
    decode,
    *,
    num_beams: int = 4,
    separator: str = "\n",
    max_rounds: int = 20,
) -> Selection:
    """Value-guided step beam search (OREO, arXiv 2412.16145): needs a critic, as method offline
    trains one.

    Each of num_beams = K beams is continued K times up to the separator (a first line K * K times);
    the K paths with the highest value V are kept, finished ones among them; after max_rounds steps,
    or once all K are finished, the one with the highest value is chosen, finished before
    unfinished. Equal paths count once. V is taken of the last state in which a token was chosen: of
    a finished path before its end token, because behind that there is no state.
    """
    if num_beams < 1 or max_rounds < 1 or not separator:
        raise ConfigError(
            f"value_beam: num_beams {num_beams} and max_rounds {max_rounds} must be at least 1, "
            f"and separator {separator!r} not empty"
        )
    # A separator that ends whole completions too leaves one step.
    mark = None if separator in ask.sampling.stop else separator
    beams = [Candidate((), "", 0.0, False, context_ids=prompt)]
    for depth in range(max_rounds):
        active = [path for path in beams if not is_done(path, ask, mark)]
        if not active or ask.budget.is_spent:
            break
        groups = await asyncio.gather(
            *(
                ask(
                    (*prompt, *path.ids),
                    num_beams if depth else num_beams**2,
                    stop=() if mark is None else (mark,),
                    max_tokens=path_room(ask, path.ids),
                )
                for path in active
            )
        )
        pool = [path for path in beams if path not in active]
        pool += [p.grown(c, decode) for p, g in zip(active, groups, strict=True) for c in g]
        pool = distinct(pool)
        values = await value([last_state(prompt, path, mark) for path in pool])
        pool = [path.scored(number) for path, number in zip(pool, values, strict=True)]
        beams = sorted(pool, key=lambda p: -(p.score or 0.0))[:num_beams]
    beams = [replace(path, ended=is_ended(path, mark)) for path in beams]
    best = max(range(len(beams)), key=lambda i: (beams[i].ended, beams[i].score or 0.0))
    return select(beams, best, extract)
