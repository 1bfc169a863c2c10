"""Attempts that see the earlier ones: searches with a model that was trained to revise."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any

from posttrain.errors import ConfigError
from posttrain.registry import searches
from posttrain.search.base import Candidate, Selection
from posttrain.search.dialogue import filled, followed, is_cut, question_of, reply
from posttrain.search.scores import best_place, scored
from posttrain.search.steps import shares
from posttrain.search.vote import vote
from posttrain.types import Text


@searches.register
async def revise(
    prompt,
    ask,
    extract,
    problem,
    render,
    *,
    num_samples: int = 8,
    sequential_ratio: float = 1.0,
    max_context_attempts: int = 4,
    instruction: str = "There may be a mistake in this answer. Try again.\n{problem}",
) -> Selection:
    """Revisions, sequential and parallel, and a majority vote over all of them (Snell et al., arXiv
    2408.03314).

        chains W = ceil(num_samples / L),   length L = round(sqrt(num_samples * sequential_ratio))
        y_1 ~ p(. | x);   y_t ~ p(. | x, y_{t-k}, instruction, ..., y_{t-1}, instruction)

    sequential_ratio is L / W. At num_samples and above there is one chain; at 1 / num_samples and
    below the attempts are independent, which is `majority_vote` exactly. The paper's model is
    trained for it: make its rows with `pt.revision_rows`, with the same instruction and number of
    attempts. It finds easy problems better solved in sequence, hard ones by a balance of both.
    notes: num_chains.

    num_samples: attempts of all chains together. sequential_ratio: length of a chain to number of
    chains. max_context_attempts: k, newest attempts that the next one sees. instruction: stands
    behind an attempt, with {problem}.
    """
    settings = (num_samples, sequential_ratio, max_context_attempts, instruction)
    chains = await _chains(prompt, ask, problem, render, *settings)
    attempts = [attempt for chain in chains for attempt in chain]
    return vote(attempts, [1.0] * len(attempts), extract, num_chains=float(len(chains)))


@searches.register
async def scored_revise(
    prompt,
    ask,
    extract,
    score,
    problem,
    render,
    *,
    num_samples: int = 8,
    sequential_ratio: float = 1.0,
    max_context_attempts: int = 4,
    instruction: str = "There may be a mistake in this answer. Try again.\n{problem}",
) -> Selection:
    """`revise` with a verifier: hierarchical weighted best-of-N (Snell et al., arXiv 2408.03314).

    Of each chain the attempt with the highest score is taken; among these the answer with the
    largest sum of scores wins. All attempts are candidates, and votes holds the sums. With one
    chain it is the chain's best; at a sequential_ratio of at most 1 / num_samples it is
    `weighted_vote`. notes: num_chains.

    num_samples, sequential_ratio, max_context_attempts, instruction: as of `revise`.
    """
    settings = (num_samples, sequential_ratio, max_context_attempts, instruction)
    chains = await _chains(prompt, ask, problem, render, *settings)
    attempts = await scored([attempt for chain in chains for attempt in chain], score)
    weights, start = [-math.inf] * len(attempts), 0
    for chain in chains:
        best = start + best_place(attempts[start : start + len(chain)])
        weights[best] = attempts[best].score or 0.0
        start += len(chain)
    return vote(attempts, weights, extract, num_chains=float(len(chains)))


def revision_context(
    problem: Text, attempts: Sequence[str], instruction: str, max_attempts: int
) -> Text:
    """The problem with its newest attempts, each with the instruction behind it.

    Searches and the rows of `pt.revision_rows` have the same contexts, because both come from here.
    """
    request = filled(instruction, problem=question_of(problem))
    return followed(problem, [(attempt, request) for attempt in attempts[-max_attempts:]])


def chain_lengths(num_samples: int, sequential_ratio: float) -> list[int]:
    """Attempts per chain, num_samples in all and as equal as can be.

    >>> chain_lengths(8, 2.0), chain_lengths(8, 0.1), chain_lengths(7, 1.0)
    ([4, 4], [1, 1, 1, 1, 1, 1, 1, 1], [3, 2, 2])

    Raises:
        ConfigError: num_samples below 1, or a ratio that is not above 0.
    """
    if num_samples < 1 or not sequential_ratio > 0:
        raise ConfigError(
            f"revise: num_samples {num_samples} must be at least 1, and sequential_ratio "
            f"{sequential_ratio} above 0"
        )
    length = min(max(round(math.sqrt(num_samples * sequential_ratio)), 1), num_samples)
    number = math.ceil(num_samples / length)
    return shares(num_samples, number)


async def _chains(
    prompt: Any,
    ask: Any,
    problem: Text,
    render: Any,
    num_samples: int,
    sequential_ratio: float,
    max_context_attempts: int,
    instruction: str,
) -> list[list[Candidate]]:
    """The attempts of each chain; first attempts are one call, chains run side by side."""
    if max_context_attempts < 1:
        raise ConfigError(
            f"revise: max_context_attempts is {max_context_attempts}; it must be at least 1"
        )
    lengths = chain_lengths(num_samples, sequential_ratio)

    async def chain(first: Candidate, length: int) -> list[Candidate]:
        attempts = [first]
        while len(attempts) < length and not is_cut(attempts[-1]) and not ask.budget.is_spent:
            texts = [attempt.text for attempt in attempts]
            text = revision_context(problem, texts, instruction, max_context_attempts)
            attempt = await reply(ask, render(text))
            if is_cut(attempt):
                break
            attempts.append(attempt)
        return attempts

    firsts = await ask(prompt, len(lengths))
    return list(await asyncio.gather(*(chain(f, n) for f, n in zip(firsts, lengths, strict=True))))
