"""Tokens that a model prefers more than a weaker one does."""

from __future__ import annotations

import math

from posttrain.errors import ConfigError
from posttrain.registry import searches
from posttrain.search.base import Candidate, Selection, select
from posttrain.search.token_paths import next_tokens, with_text, with_token


@searches.register
async def contrastive_decoding(
    prompt,
    ask,
    extract,
    decode,
    amateur,
    *,
    contrast_weight: float = 0.5,
    min_p: float = 0.1,
    num_candidates: int = 20,
) -> Selection:
    """Contrastive decoding (Li et al., arXiv 2210.15097, in the form of O'Brien and Lewis, arXiv
    2309.09117).

        x_t = argmax over {v : p_e(v) >= min_p * max p_e} of
              (1 + contrast_weight) log p_e(v) - contrast_weight log p_a(v)

    p_e is the model's distribution, p_a that of an amateur: a weaker model with the same
    vocabulary. With contrast_weight 0, or with itself as amateur, it is greedy decoding. The
    amateur reads the text anew for each token, and nothing where only one token is plausible.
    Notes: places where it was asked (num_contrasted), where it changed the token (num_changed), and
    where all that were compared were plausible, so that others may have been (num_truncated).

    contrast_weight: their beta. min_p: their alpha. num_candidates: tokens that are compared at
    most.
    """
    if not 0 < min_p <= 1 or not 0 <= contrast_weight < math.inf:
        raise ConfigError(
            f"contrastive_decoding: min_p {min_p} must be above 0 and at most 1, and "
            f"contrast_weight {contrast_weight} at least 0 and finite"
        )
    path = Candidate((), "", 0.0, False, context_ids=tuple(prompt))
    contrasted = changed = truncated = 0
    while len(path.ids) < ask.sampling.max_tokens and not path.ended:
        context = (*prompt, *path.ids)
        top = await next_tokens(ask, context, num_candidates)
        if not top:
            break
        plausible = [(i, x) for i, x in top if x >= top[0][1] + math.log(min_p)]
        token, logprob = top[0]
        if len(plausible) > 1 and contrast_weight:
            contrasted += 1
            truncated += len(plausible) == num_candidates
            of_amateur = await amateur(context, [i for i, _ in plausible])
            contrasts = [
                (1 + contrast_weight) * x - contrast_weight * a
                for (_, x), a in zip(plausible, of_amateur, strict=True)
            ]
            token, logprob = plausible[contrasts.index(max(contrasts))]
            changed += token != top[0][0]
        path = with_token(path, token, top, logprob, ask, decode)
    return select(
        [with_text(path, decode)],
        0,
        extract,
        num_contrasted=float(contrasted),
        num_changed=float(changed),
        num_truncated=float(truncated),
    )
