"""Runs a strategy on many prompts at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from posttrain.budget import Budget
from posttrain.data.templates import decode_completion, encode_prompt
from posttrain.engines.base import Engine
from posttrain.episodes.drive import EngineAsk, Failed, drive
from posttrain.errors import ConfigError, PosttrainError, RequestRefused
from posttrain.rewards.grader import TaskGrader
from posttrain.search.ask import EngineSearchAsk
from posttrain.search.base import Candidate, Ids, Ledger, Selection
from posttrain.search.batched import Batched
from posttrain.search.journal import Journal
from posttrain.search.strategy import Strategy
from posttrain.types import Example, Sample, Sampling, Text

UNLIMITED = 2**62
"""Tokens of a search without a budget."""

Item = TypeVar("Item")

Continued = tuple[Ids, int]
"""A context and a token behind it."""

Scored = tuple[Example, Sequence[Candidate]]
"""Candidates of an example."""


@dataclass(frozen=True, slots=True)
class SearchLimits:
    """What the search about one prompt may spend; None = no limit.

    max_tokens: sampled tokens, the discarded ones included. max_seconds: from its first call on.
    max_calls: calls of the engine. timeout_seconds: after which the search fails.

    Raises:
        ConfigError: a limit below 1 (max_tokens, max_calls), or not above 0.
    """

    max_tokens: int | None = None
    max_seconds: float | None = None
    max_calls: int | None = None
    timeout_seconds: float = 0.0

    def __post_init__(self) -> None:
        for name in ("max_tokens", "max_calls"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"search budget: {name} is {value}; it must be at least 1")
        if self.max_seconds is not None and not self.max_seconds > 0:
            raise ConfigError(
                f"search budget: max_seconds is {self.max_seconds}; it must be above 0"
            )
        if not self.timeout_seconds >= 0:
            raise ConfigError(
                f"search budget: timeout_seconds is {self.timeout_seconds}; it must be at least 0 "
                "(0 = no limit)"
            )

    def budget(self) -> Budget:
        """A new budget with these limits."""
        tokens = UNLIMITED if self.max_tokens is None else self.max_tokens
        return Budget(max_tokens=tokens, max_seconds=self.max_seconds, max_calls=self.max_calls)


@dataclass(frozen=True, slots=True)
class SearchTools:
    """What all searches of a run share.

    tokenizer: decodes samples and renders prompts. extract: completion -> answer. verdicts: of the
    task, for an oracle. value: a critic's values of states. system: the task's system message.
    journal: answers of an interrupted run. amateur: an engine of a weaker model with the same
    vocabulary.
    """

    tokenizer: Any
    extract: Callable[[str], str | None]
    verdicts: TaskGrader | None = None
    value: Callable[[Sequence[Ids]], list[float]] | None = None
    system: str | None = None
    journal: Journal | None = None
    amateur: Engine | None = None

    def decode(self, sample: Sample) -> str:
        """The text of a sample."""
        return decode_completion(self.tokenizer, sample)

    def text(self, ids: Sequence[int]) -> str:
        """The text of a completion's ids."""
        return self.decode(Sample(list(ids), [], [], "stop"))

    def encode(self, text: str) -> Ids:
        """Ids of a text that goes on behind others."""
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def render(self, prompt: Text, system: str | None = None) -> Ids:
        """Ids of a prompt, as the task's own prompts are rendered.

        system: in place of the task's.
        """
        return tuple(encode_prompt(self.tokenizer, prompt, system=system or self.system))


def run_searches(
    strategy: Strategy,
    problems: Sequence[tuple[Example, Ids]],
    engine: Engine,
    tools: SearchTools,
    *,
    sampling: Sampling,
    seeds: Sequence[int],
    limits: SearchLimits | None = None,
    max_concurrent: int = 0,
    on_finished: Callable[[int, Selection | Failed], None] | None = None,
) -> list[Selection | Failed]:
    """What a strategy chooses for each problem.

    A request that a server refuses fails the search about its problem, and the others go on; where
    it refuses one of every problem, that is an error.

    Args:
        strategy: with its scorer open (`Strategy.open`).
        problems: examples with their prompts as token ids.
        sampling: of a whole completion.
        seeds: one per problem.
        limits: of the search about one problem.
        max_concurrent: most searches at the same time; 0 = all.
        on_finished: called with place and result whenever a search ends.

    Raises:
        PosttrainError: a strategy's wrong call or setting, a scorer that fails too often, a server
            that does not answer. Any other exception of a search is its result.
    """
    limits = limits or SearchLimits()
    errors: list[PosttrainError] = []
    refusals: list[RequestRefused] = []
    budgets = [limits.budget() for _ in problems]
    scores: Batched[Scored, list[float]] = Batched(
        lambda items: _scores(strategy, items, tools.verdicts)
    )
    values = None if tools.value is None else Batched(_of_lists(tools.value))
    amateur = _amateur(strategy, tools.amateur)

    def program(example: Example, prompt: Ids, budget: Budget) -> Callable[[EngineAsk], Any]:
        async def search(engine_ask: EngineAsk) -> Selection:
            ask = EngineSearchAsk(engine_ask, tools.decode, prompt, budget, tools.journal)
            inputs = _inputs(example, prompt, ask, tools, scores, values, amateur)
            started = time.monotonic()
            try:
                selection = await strategy.run(inputs)
                return _closed(selection, ask, time.monotonic() - started)
            except RequestRefused as error:
                refusals.append(error)
                raise
            except PosttrainError as error:
                errors.append(error)
                raise

        return search

    def finished(place: int, result: Selection | Failed) -> None:
        if errors:
            raise errors[0]
        if on_finished is not None:
            on_finished(place, _counted(result, budgets[place]))

    results = drive(
        [program(*problem, budget) for problem, budget in zip(problems, budgets, strict=True)],
        engine,
        sampling=sampling,
        seeds=seeds,
        max_concurrent=max_concurrent,
        timeout_seconds=limits.timeout_seconds,
        on_finished=finished,
    )
    if refusals and len(refusals) == len(results):
        raise refusals[0]
    return [_counted(result, budget) for result, budget in zip(results, budgets, strict=True)]


def _counted(result: Selection | Failed, budget: Budget) -> Selection | Failed:
    """The result; of a search that failed with the tokens that it had sampled."""
    return replace(result, num_tokens=budget.num_tokens) if isinstance(result, Failed) else result


def _amateur(
    strategy: Strategy, engine: Engine | None
) -> Batched[Sequence[Continued], list[float]] | None:
    """Log-probs of a weaker model, which many searches ask for together."""
    if engine is not None:
        return Batched(_of_lists(_likelihood(engine)))
    if "amateur" in strategy.inputs:
        raise ConfigError(
            f"search {strategy.name!r} asks for a weaker model beside the one that is sampled; "
            "give it as `amateur`"
        )
    return None


def _inputs(
    example: Example,
    prompt: Ids,
    ask: EngineSearchAsk,
    tools: SearchTools,
    scores: Batched[Scored, list[float]],
    values: Batched[Sequence[Ids], list[float]] | None,
    amateur: Batched[Sequence[Continued], list[float]] | None,
) -> dict[str, Any]:
    """What the strategy about one prompt is given, by name."""

    async def score(candidates: Sequence[Candidate]) -> list[float]:
        ask.ledger.num_scored += len(candidates)
        return await scores((example, candidates)) if candidates else []

    async def value(states: Sequence[Ids]) -> list[float]:
        assert values is not None
        ask.ledger.num_scored += len(states)
        return await values(states) if states else []

    async def next_logprobs(context: Ids, ids: Sequence[int]) -> list[float]:
        assert amateur is not None
        ask.ledger.num_scored += len(ids)
        return await amateur([(context, token) for token in ids]) if ids else []

    return {
        "prompt": prompt,
        "ask": ask,
        "extract": tools.extract,
        "score": score,
        "value": value,
        "decode": tools.text,
        "encode": tools.encode,
        "problem": example.prompt,
        "render": tools.render,
        "amateur": next_logprobs,
    }


def _scores(
    strategy: Strategy,
    items: Sequence[tuple[Example, Sequence[Candidate]]],
    verdicts: TaskGrader | None,
) -> list[list[float]]:
    if strategy.scorer is None:
        raise ConfigError(f"search {strategy.name!r} needs a scorer")
    return strategy.scorer.scores(items, verdicts)


def _likelihood(engine: Engine) -> Callable[[Sequence[Continued]], list[float]]:
    """Log-probs of single tokens behind their contexts."""

    def logprobs(items: Sequence[Continued]) -> list[float]:
        rows = engine.score([((*context, token), len(context)) for context, token in items])
        return [row[0] for row in rows]

    return logprobs


def _of_lists(
    function: Callable[[Sequence[Item]], list[float]],
) -> Callable[[Sequence[Sequence[Item]]], list[list[float]]]:
    """A function of items as one of lists of items."""

    def call(lists: Sequence[Sequence[Item]]) -> list[list[float]]:
        numbers = iter(function([item for items in lists for item in items]))
        return [[next(numbers) for _ in items] for items in lists]

    return call


def _closed(selection: Any, ask: EngineSearchAsk, seconds: float) -> Selection:
    """The selection with the accounts of its search."""
    if not isinstance(selection, Selection):
        raise ConfigError(
            f"a search returned {type(selection).__name__}; it must return a Selection, such as "
            "select(candidates, index, extract)"
        )
    ledger: Ledger = ask.ledger
    ledger.sampled_tokens, ledger.seconds = ask.budget.num_tokens, seconds
    selection.num_tokens, selection.ledger = ledger.sampled_tokens, ledger
    return selection
