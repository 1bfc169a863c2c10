"""Best-of-N that does not finish what begins badly."""

from __future__ import annotations

from posttrain.errors import ConfigError
from posttrain.registry import searches
from posttrain.search.base import Selection, select
from posttrain.search.chunks import begun, continued, is_open
from posttrain.search.scores import rank, scored


@searches.register
async def speculative_rejection(
    prompt,
    ask,
    extract,
    score,
    decode,
    *,
    num_samples: int = 16,
    rejected_share: float = 0.5,
    chunk_tokens: int = 32,
) -> Selection:
    """Speculative rejection (Sun et al., arXiv 2410.20290): best-of-N for a part of its tokens.

        repeat: chunk_tokens more for every open sample; score all that remain
                reject the lowest rejected_share of them, as long as one is open
        the highest score of a finished sample, else of an unfinished one

    Finished samples stay in the ranking, and can be rejected as others are. At least one remains.
    Ties of the score go to the higher log-prob per token. The score has to say something about
    beginnings: a reward model does, a verifier of final answers does not. Share 0 is best-of-N.

    num_samples: samples that begin; note num_rejected says how many were rejected. rejected_share:
    share that is rejected after each chunk, rounded down. chunk_tokens: tokens between two
    rejections.
    """
    if not 0 <= rejected_share < 1 or chunk_tokens < 1:
        raise ConfigError(
            f"speculative_rejection: rejected_share is {rejected_share} and chunk_tokens "
            f"{chunk_tokens}; the share must be at least 0 and below 1, the tokens at least 1"
        )
    paths = await scored(await begun(prompt, ask, num_samples, chunk_tokens), score)
    lengths = [0] * num_samples
    remaining = list(range(num_samples))
    while True:
        going = [i for i in remaining if is_open(paths[i], ask, lengths[i])]
        if not going or ask.budget.is_spent:
            break
        remaining = sorted(remaining, key=lambda i: rank(paths[i]), reverse=True)
        remaining = remaining[: len(remaining) - int(rejected_share * len(remaining))]
        going = sorted(i for i in going if i in remaining)
        if not going:
            break
        lengths = [len(path.ids) for path in paths]
        grown = await continued([paths[i] for i in going], prompt, ask, decode, chunk_tokens)
        for i, path in zip(going, await scored(grown, score), strict=True):
            paths[i] = path
    best = max(remaining, key=lambda i: (paths[i].ended, rank(paths[i]), -i))
    rejected = num_samples - len(remaining)
    return select(paths, best, extract, None, num_rejected=float(rejected))
