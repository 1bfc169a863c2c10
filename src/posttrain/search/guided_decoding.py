"""Tokens that a scorer likes beside the model."""

from __future__ import annotations

import math

from posttrain.errors import ConfigError
from posttrain.registry import searches
from posttrain.search.base import Candidate, Selection, select
from posttrain.search.token_paths import next_tokens, with_text, with_token


@searches.register
async def guided_decoding(
    prompt,
    ask,
    extract,
    decode,
    score,
    *,
    num_candidates: int = 10,
    score_weight: float = 1.0,
) -> Selection:
    """Reward-guided decoding: ARGS (Khanov et al., arXiv 2402.01694).

        x_t = argmax over the num_candidates likeliest v of
              log p(v | x_<t) + score_weight * score(x_<t, v)

    The scorer reads num_candidates texts per token, which costs as much as it does. Tokens without
    a score are taken where none has one. With score_weight 0 or one candidate it is greedy
    decoding. Notes: num_changed, places where the choice is not the likeliest token.

    num_candidates: k. score_weight: w, in nats per unit of the score.
    """
    if not 0 <= score_weight < math.inf:
        raise ConfigError(
            f"guided_decoding: score_weight is {score_weight}; it must be at least 0 and finite"
        )
    path = Candidate((), "", 0.0, False, context_ids=tuple(prompt))
    changed = 0
    while len(path.ids) < ask.sampling.max_tokens and not path.ended:
        top = await next_tokens(ask, (*prompt, *path.ids), num_candidates)
        if not top:
            break
        options = [
            with_text(with_token(path, token, top, logprob, ask, decode), decode)
            for token, logprob in top
        ]
        best = 0
        if score_weight and len(options) > 1:
            numbers = await score(options)
            options = [o.scored(number) for o, number in zip(options, numbers, strict=True)]
            guided = [x + score_weight * n for (_, x), n in zip(top, numbers, strict=True)]
            best = guided.index(max(guided))
        changed += best > 0
        path = options[best]
    return select([path], 0, extract, num_changed=float(changed))
