"""The best of several next steps, again and again, by a critic's value."""

from __future__ import annotations

from dataclasses import replace

from posttrain.registry import searches
from posttrain.search.base import Candidate, Selection, select
from posttrain.search.steps import Steps, at_least


@searches.register
async def best_of_actions(
    prompt,
    ask,
    extract,
    value,
    decode,
    *,
    num_actions: int = 4,
    separator: str = "\n",
    max_steps: int = 40,
) -> Selection:
    """Best-of-K actions (OREO, arXiv 2412.16145): needs a critic, as method offline trains one.

        path <- path + argmax over K sampled steps of V(path + step)

    until the path is whole. With one action it is one sample. V of a step that ends the completion
    is taken before its end token, as in value_beam.

    num_actions: K steps to choose from. separator: text that ends a step. max_steps: the last step
    runs to the end.
    """
    at_least("best_of_actions", num_actions=num_actions)
    steps = Steps("best_of_actions", prompt, ask, decode, separator, max_steps)
    path, index = steps.root, 0
    siblings: list[Candidate] = []
    while not siblings or not (steps.is_done(path) or ask.budget.is_spent):
        siblings = await steps.continued(path, num_actions)
        numbers = await value([steps.state(p) for p in siblings])
        siblings = [p.scored(number) for p, number in zip(siblings, numbers, strict=True)]
        index = max(range(len(siblings)), key=lambda i: numbers[i])
        path = siblings[index]
    siblings = [replace(p, ended=steps.is_ended(p)) for p in siblings]
    return select(siblings, index, extract, None, num_steps=len(path.steps))
