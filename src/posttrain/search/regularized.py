"""Best-of-N that stays near the policy, where the score cannot be trusted far from it."""

from __future__ import annotations

import math
from typing import Literal

from posttrain.errors import ConfigError
from posttrain.registry import searches
from posttrain.search.base import Candidate, Selection, select
from posttrain.search.scores import scored


@searches.register
async def regularized_best_of_n(
    prompt,
    ask,
    extract,
    score,
    *,
    num_samples: int = 8,
    penalty: Literal["kl", "length"] = "kl",
    penalty_weight: float = 0.01,
) -> Selection:
    """Regularised best-of-N (Jinnai et al., arXiv 2404.01054): a proxy score is hacked less.

        argmax_i s_i - w KL(delta_{y_i} || policy) = argmax_i s_i + w log policy(y_i | x)    (kl)
        argmax_i s_i - w |y_i|                                                           (length)

    The divergence of the choice of one y from the policy is -log policy(y | x), which the sampler
    reports. Weight 0 is best-of-N; a very large one takes the likeliest sample, or the shortest.

    num_samples: samples. penalty: what a choice pays for. penalty_weight: w, in scores per nat, or
    per token.
    """
    if not 0 <= penalty_weight < math.inf:
        raise ConfigError(
            f"regularized_best_of_n: penalty_weight is {penalty_weight}; it must be at least 0 and "
            "finite"
        )
    candidates = await scored(await ask(prompt, num_samples), score)

    def worth(candidate: Candidate) -> float:
        if not candidate.ids:  # left empty by the budget: neither likely nor short
            return -math.inf
        cost = -candidate.logprob if penalty == "kl" else float(len(candidate.ids))
        return (candidate.score or 0.0) - penalty_weight * cost

    best = max(
        range(len(candidates)), key=lambda i: (worth(candidates[i]), candidates[i].mean_logprob)
    )
    return select(candidates, best, extract)
