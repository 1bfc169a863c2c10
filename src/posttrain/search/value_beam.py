"""Step-wise beam search that a critic guides."""

from __future__ import annotations

from posttrain.registry import searches
from posttrain.search.base import Selection, distinct
from posttrain.search.scores import best_paths
from posttrain.search.steps import Steps, at_least


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
    max_steps: int = 20,
) -> Selection:
    """Value-guided step beam search (OREO, arXiv 2412.16145): needs a critic, as method offline
    trains one.

    Each of num_beams = K beams is continued K times up to the separator (a first line K * K times);
    the K paths with the highest value V are kept, finished ones among them; once all K are
    finished, the one with the highest value is chosen. Equal paths count once. V is taken of the
    last state in which a token was chosen: of a finished path before its end token, because behind
    that there is no state.

    num_beams: K. separator: text that ends a step. max_steps: the last step runs to the end.
    """
    at_least("value_beam", num_beams=num_beams)
    steps = Steps("value_beam", prompt, ask, decode, separator, max_steps)
    beams = [steps.root]
    while active := [path for path in beams if not steps.is_done(path)]:
        is_first = not active[0].steps
        if ask.budget.is_spent and not is_first:
            break
        counts = [num_beams**2 if is_first else num_beams] * len(active)
        pool = [path for path in beams if steps.is_done(path)]
        pool += [path for group in await steps.grown(active, counts) for path in group]
        pool = distinct(pool)
        numbers = await value([steps.state(path) for path in pool])
        pool = [path.scored(number) for path, number in zip(pool, numbers, strict=True)]
        beams = best_paths(pool, num_beams)
    return steps.chosen(beams, extract, "best")
