"""The likeliest token at every place."""

from __future__ import annotations

from posttrain.registry import searches
from posttrain.search.base import Selection, select


@searches.register
async def greedy(prompt, ask, extract) -> Selection:
    """Greedy decoding, at temperature 0: x_t = argmax p(. | x_<t).

    It is beam search with one beam, and chain-of-thought decoding with one branch.
    """
    return select(await ask(prompt, temperature=0.0), 0, extract)
