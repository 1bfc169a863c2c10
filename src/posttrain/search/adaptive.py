"""Votes that stop as soon as their outcome is clear enough."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

from posttrain.errors import ConfigError
from posttrain.registry import searches
from posttrain.search.base import Candidate, Ids, Selection
from posttrain.search.vote import vote

Stop = Callable[[list[str]], bool]
"""Answers in the order of sampling -> whether no more are needed."""


@searches.register
async def adaptive_consistency(
    prompt,
    ask,
    extract,
    *,
    num_samples: int = 40,
    confidence: float = 0.95,
    num_first: int = 4,
    growth: float = 0.5,
) -> Selection:
    """Adaptive consistency (Aggarwal et al., arXiv 2305.11860): a majority vote that stops when the
    first answer is probably ahead of the second.

        stop where 1 - I_1/2(v1 + 1, v2 + 1) >= confidence;  v1, v2: the two largest counts

    I is the regularised incomplete beta function: the left side is the posterior probability,
    under a uniform prior, that of the two answers the first is more frequent. At 0.95 unanimous
    answers stop at 4. The rule has no guarantee when it is looked at again and again;
    `anytime_consistency` has one.

    num_samples: most samples. confidence: posterior probability at which it stops. num_first:
    samples of the first batch. growth: a further batch has this share of what was sampled, at least
    one; 0 samples one at a time.
    """
    _check("adaptive_consistency", confidence=confidence)

    def stop(answers: list[str]) -> bool:
        counts = sorted(Counter(answers).values(), reverse=True)
        first, second = (*counts, 0, 0)[:2]
        return beta_confidence(first, second) >= confidence

    return await _vote_until(stop, prompt, ask, extract, num_samples, num_first, growth)


@searches.register
async def anytime_consistency(
    prompt,
    ask,
    extract,
    *,
    num_samples: int = 40,
    max_error: float = 0.05,
    num_first: int = 4,
    growth: float = 0.5,
) -> Selection:
    """A majority vote that stops with a bound on its error, however often it looks.

        stop where E_m >= 1 / max_error for every answer m but the leader
        E_m = 1/2 1[L = 0] 2^W + 1/2 int_1/2^1 2 (2q)^W (2 (1 - q))^L dq

    E_m is the wealth of a gambler who starts with 1 and doubts that m is the most frequent answer:
    whenever another answer leads, she bets that the next sample is the leader and not m, at even
    odds. W counts the bets that she won, L those that m won. If m is a most frequent answer of the
    model, E_m is a nonnegative supermartingale, so that it ever reaches 1 / max_error with
    probability at most max_error (Ville 1939). Hence the vote stops with an answer that is not the
    model's most frequent one with at most that probability; that answer may still be wrong. The
    mixture of the sure bet and uniform ones stops unanimous answers at 6 (max_error 0.05). See
    Waudby-Smith and Ramdas, arXiv 2010.09686, for betting, and 2605.05873 for votes of models.

    num_samples: most samples; note is_certain says whether the bound was reached by then.
    max_error: the bound. num_first, growth: as in `adaptive_consistency`.
    """
    _check("anytime_consistency", max_error=max_error)

    def stop(answers: list[str]) -> bool:
        return log_evidence(answers) >= -math.log(max_error)

    return await _vote_until(stop, prompt, ask, extract, num_samples, num_first, growth)


def beta_confidence(first: int, second: int) -> float:
    """1 - I_1/2(v1 + 1, v2 + 1) = 1 - sum_{k <= v2} C(n, k) / 2^n with n = v1 + v2 + 1.

    The sum is of whole numbers, so that nothing is lost.

    >>> beta_confidence(4, 0), beta_confidence(3, 0)
    (0.96875, 0.9375)
    """
    n = first + second + 1
    below = sum(math.comb(n, k) for k in range(second + 1))
    return (2**n - below) / 2**n


def log_evidence(answers: Sequence[str]) -> float:
    """min over m of log E_m: how strongly answers say that the leader is the most frequent one.

    The leader before each sample is the most frequent answer so far; ties go to the answer that
    reached the number first. An answer that was never seen counts as one of the m.
    """
    counts: Counter[str] = Counter()
    leads: Counter[str] = Counter()  # won by the leader, by who was leading
    losses: Counter[str] = Counter()  # won by m, while another was leading
    leader: str | None = None
    for answer in answers:
        if leader is not None:
            if answer == leader:
                leads[answer] += 1
            else:
                losses[answer] += 1
        counts[answer] += 1
        if leader is None or counts[answer] > counts[leader]:
            leader = answer
    if leader is None:
        return 0.0
    won = leads.total()
    evidence = [log_wealth(won - leads[m], losses[m]) for m in counts if m != leader]
    return min([*evidence, log_wealth(won, 0)])


def log_wealth(won: int, lost: int) -> float:
    """log E of W won and L lost bets at even odds, in nats.

    The integral is (2^(n+1) - sum_{k <= L} C(n + 1, k)) / ((n + 1) C(n, W)) with n = W + L.
    """
    n = won + lost
    above = 2 ** (n + 1) - sum(math.comb(n + 1, k) for k in range(lost + 1))
    uniform = math.log(above) - math.log((n + 1) * math.comb(n, won))
    if lost:
        return uniform - math.log(2)
    sure = won * math.log(2)
    return max(sure, uniform) + math.log1p(math.exp(-abs(sure - uniform))) - math.log(2)


async def _vote_until(
    stop: Stop,
    prompt: Ids,
    ask,
    extract,
    num_samples: int,
    num_first: int,
    growth: float,
) -> Selection:
    """A majority vote over batches of samples, until `stop` or the last sample."""
    if num_first < 1 or not growth >= 0:
        raise ConfigError(
            f"num_first is {num_first} and growth {growth}; num_first must be at least 1, and "
            "growth at least 0 (0 = one sample at a time)"
        )
    candidates: list[Candidate] = []
    answers: list[str] = []
    is_certain = False
    batch = num_first
    while True:
        new = await ask(prompt, min(batch, num_samples - len(candidates)))
        candidates += new
        answers += [a for a in (extract(c.text) for c in new) if a is not None]
        is_certain = stop(answers)
        if is_certain or len(candidates) >= num_samples or ask.budget.is_spent:
            break
        batch = max(1, int(growth * len(candidates)))
    return vote(
        candidates,
        [1.0] * len(candidates),
        extract,
        num_samples=float(len(candidates)),
        is_certain=float(is_certain),
    )


def _check(search: str, **shares: float) -> None:
    for name, share in shares.items():
        if not 0 < share < 1:
            raise ConfigError(f"{search}: {name} is {share}; it must be between 0 and 1")
