"""What a strategy samples with."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from posttrain.budget import Budget
from posttrain.episodes.ask import call_seed
from posttrain.episodes.drive import EngineAsk
from posttrain.search.base import Candidate, Ids, Ledger
from posttrain.search.journal import Journal, call_key
from posttrain.types import Sample, Sampling


class Ask(Protocol):
    """The sampling that a strategy may do.

    Attributes:
        sampling: of a whole completion.
        seed: of the search; the seeds of its calls follow from it.
        random: the strategy's own source of random numbers, with the same seed.
        budget: what the search may sample; `budget.is_spent` says when to stop. Samples beyond it
            are empty and have not ended.
        ledger: what was spent.
        stop_ids: token ids that end a candidate.
        context_length: most tokens of a context and its candidate; None = no limit.
    """

    sampling: Sampling
    seed: int
    random: random.Random
    budget: Budget
    ledger: Ledger
    stop_ids: frozenset[int]
    context_length: int | None

    async def __call__(
        self,
        context: Ids,
        n: int = 1,
        *,
        stop: tuple[str, ...] = (),
        max_tokens: int | None = None,
        temperature: float | None = None,
        num_top_logprobs: int = 0,
    ) -> list[Candidate]:
        """n candidates that go on behind token ids.

        Args:
            stop: stop strings beside those of `sampling`.
            max_tokens: None takes those of `sampling`; without any, or in a full context, the
                candidates are empty.
            num_top_logprobs: most likely ids to report in the place of each token.
        """
        ...


class EngineSearchAsk:
    """`Ask` on an engine that other searches share.

    A call's seed follows from the search's seed and the context, not from what else runs. The first
    call about the prompt itself has the search's own seed, so that one sample of a search is the
    sample that an evaluation without it takes.

    Args:
        decode: sample -> text. prompt: of the search. journal: answers of an earlier, interrupted
            run.
    """

    def __init__(
        self,
        ask: EngineAsk,
        decode: Callable[[Sample], str],
        prompt: Ids,
        budget: Budget,
        journal: Journal | None = None,
    ) -> None:
        self.sampling, self.seed, self.budget = ask.sampling, ask.seed, budget
        self.random = random.Random(ask.seed)
        self.ledger = Ledger()
        self.stop_ids = ask.stop_ids.union(ask.sampling.stop_ids)
        self.context_length = ask.context_length
        self._ask, self._decode, self._prompt, self._journal = ask, decode, prompt, journal
        self._occurrences: dict[Ids, int] = {}

    async def __call__(
        self,
        context: Ids,
        n: int = 1,
        *,
        stop: tuple[str, ...] = (),
        max_tokens: int | None = None,
        temperature: float | None = None,
        num_top_logprobs: int = 0,
    ) -> list[Candidate]:
        """See `Ask`."""
        context = tuple(context)
        sampling = self._sampling(stop, max_tokens, temperature)
        limit = self.context_length
        if sampling.max_tokens < 1 or (limit is not None and len(context) >= limit):
            return [Candidate((), "", 0.0, False, context_ids=context) for _ in range(n)]
        seed = self._seed(context)
        self.ledger.num_calls += 1
        self.ledger.num_samples += n
        self.ledger.prompt_tokens += len(context)
        key = call_key(context, sampling, n, seed, num_top_logprobs)
        samples = self._journal.answer(key) if self._journal is not None else None
        if samples is not None:
            self.budget.call()
            self.budget.spend(sum(len(s.ids) for s in samples))
        else:
            samples = await self._sample(context, sampling, n, seed, num_top_logprobs)
            if self._journal is not None:
                self._journal.record(key, samples)
        return [self._candidate(context, sample) for sample in samples]

    def _sampling(
        self, stop: tuple[str, ...], max_tokens: int | None, temperature: float | None
    ) -> Sampling:
        bound = self.sampling.max_tokens if max_tokens is None else max_tokens
        every = tuple(dict.fromkeys((*self.sampling.stop, *stop)))
        sampling = replace(self.sampling, stop=every, max_tokens=bound)
        return sampling if temperature is None else replace(sampling, temperature=temperature)

    def _seed(self, context: Ids) -> int:
        occurrence = self._occurrences.get(context, 0)
        self._occurrences[context] = occurrence + 1
        if context == self._prompt and not occurrence:
            return self.seed
        return call_seed(self.seed, context, occurrence)

    async def _sample(
        self, context: Ids, sampling: Sampling, n: int, seed: int, num_top_logprobs: int
    ) -> list[Sample]:
        def reused(tokens: int) -> None:
            self.ledger.reused_tokens += tokens

        more: dict[str, Any] = {"num_top_logprobs": num_top_logprobs} if num_top_logprobs else {}
        return await self._ask(
            context, sampling, n, seed, on_reused=reused, budget=self.budget, **more
        )

    def _candidate(self, context: Ids, sample: Sample) -> Candidate:
        return Candidate(
            tuple(sample.ids),
            self._decode(sample),
            float(sum(sample.raw_logprobs)),
            sample.finish_reason == "stop",
            sample.stop_string,
            tuple(sample.raw_logprobs),
            tuple(sample.top_logprobs),
            context,
        )


def path_room(ask: Ask, path: Sequence[int]) -> int:
    """Tokens that a completion which has begun with `path` may still have."""
    return ask.sampling.max_tokens - len(path)
