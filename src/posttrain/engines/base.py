"""What every engine offers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from posttrain.errors import ConfigError, DataError, PosttrainError
from posttrain.types import Request, Sample, Sampling

Score = Callable[[Sequence[tuple[Sequence[int], int]]], list[list[float]]]
"""Log-probs of ids[start:] at temperature 1, for each (ids, start)."""


OnTokens = Callable[[int, list[int]], None]
"""Called within `step` with the index of a sample in its request and the ids that are new."""


OnLogprobs = Callable[[int, list[int], list[float]], None]
"""As `OnTokens`, with the raw log-probs of the new ids (`Sample.raw_logprobs`)."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of a request.

    ticket: what `submit` gave. samples: as many as were asked for, in order. error: why there are
    none, else None. reused_tokens: of the prompt, those that were not computed for this request;
    0 where an engine does not report them.
    """

    ticket: int
    samples: list[Sample]
    error: PosttrainError | None = None
    reused_tokens: int = 0


class Engine(Protocol):
    """Sampling and scoring of token ids. One thread owns an engine.

    Requests are handed in at any time and decode side by side:

        ticket = engine.submit(request)
        while engine.num_open:
            for finished in engine.step(): ...

    weights_version: raised by every weight update; whatever an engine caches is keyed by it.
    in_flight: whether weights may change under open requests. Such a request goes on with the new
    weights, and its samples say which token is of which (`Sample.version_spans`).
    stop_ids: token ids that end every sample. context_length: most tokens of a prompt and its
    sample together, None where there is no limit.
    """

    weights_version: int

    @property
    def in_flight(self) -> bool: ...

    @property
    def stop_ids(self) -> frozenset[int]: ...

    @property
    def context_length(self) -> int | None: ...

    @property
    def num_open(self) -> int:
        """Requests that are neither finished nor aborted."""
        ...

    def submit(
        self,
        request: Request,
        on_tokens: OnTokens | None = None,
        on_logprobs: OnLogprobs | None = None,
    ) -> int:
        """Hand in a request; its ticket. It is sampled by the steps that follow.

        Raises:
            DataError, ConfigError: see `check_requests`.
        """
        ...

    def step(self) -> list[Finished]:
        """One decoding step of everything open; the requests that finish with it."""
        ...

    def abort(self, ticket: int) -> None:
        """End a request without a result. Tickets that are not open are ignored."""
        ...

    def generate(self, requests: Sequence[Request]) -> list[list[Sample]]:
        """`n` samples for each request, in the order of the requests."""
        ...

    def score(self, sequences: Sequence[tuple[Sequence[int], int]]) -> list[list[float]]:
        """Log-probs under the model at temperature 1 of ids[start:], for each (ids, start)."""
        ...

    def sync(self, version: int) -> None:
        """The weights have changed: sample with them, and forget what was computed with older
        ones.

        Raises:
            ConfigError: requests are open, and the engine is not `in_flight`.
            WeightSyncError: the engine is elsewhere, and has other weights than the trainer.
        """
        ...


@runtime_checkable
class Reporting(Protocol):
    """An engine with metrics of its own, such as those of weight updates."""

    def take_metrics(self) -> dict[str, float]:
        """What has happened since the last call."""
        ...


@runtime_checkable
class Closing(Protocol):
    """An engine that holds processes or connections."""

    def close(self) -> None:
        """Free them. No other call follows; a second one does nothing."""
        ...


def sampled(
    engine: Engine, requests: Sequence[Request], kept: list[Finished]
) -> list[list[Sample]]:
    """`Engine.generate` by submit and step, while other requests are open.

    Args:
        kept: gets what finished meanwhile of other requests, for `step` to give out.
    Raises:
        PosttrainError: a request failed; the others of these are aborted.
    """
    tickets = [engine.submit(request) for request in requests]
    wanted, done = set(tickets), {}
    others: list[Finished] = []
    try:
        while wanted:
            for finished in engine.step():
                if finished.ticket not in wanted:
                    others.append(finished)
                    continue
                wanted.remove(finished.ticket)
                if finished.error is not None:
                    raise finished.error
                done[finished.ticket] = finished.samples
    finally:
        kept += others
        for ticket in wanted:
            engine.abort(ticket)
    return [done[ticket] for ticket in tickets]


def check_requests(
    requests: Sequence[Request], *, vocab_size: int, context_length: int | None
) -> None:
    """Refuse what cannot be sampled, before any work is done.

    Raises:
        DataError: an empty prompt, a token id outside the vocabulary, a prompt that fills the
        context.
        ConfigError: sampling settings out of range.
    """
    for number, request in enumerate(requests):
        ids, s = request.prompt_ids, request.sampling
        if not ids:
            raise DataError(f"request {number}: the prompt is empty; give at least one token (BOS)")
        low, high = min(ids), max(ids)
        if low < 0 or high >= vocab_size:
            raise DataError(
                f"request {number}: token id {low if low < 0 else high} is outside 0 to "
                f"{vocab_size - 1}"
            )
        if context_length is not None and len(ids) >= context_length:
            raise DataError(
                f"request {number}: the prompt has {len(ids)} tokens and the model's context is "
                f"{context_length}; "
                "shorten the prompt or take a model with a longer context"
            )
        rules = {
            "max_tokens": (s.max_tokens, s.max_tokens >= 1, "at least 1"),
            "temperature": (
                s.temperature,
                0 <= s.temperature < math.inf,
                "at least 0 (0 is greedy) and finite",
            ),
            "top_p": (s.top_p, 0 < s.top_p <= 1, "above 0 and at most 1"),
            "top_k": (s.top_k, s.top_k >= 0, "at least 0 (0 is off)"),
            "min_p": (s.min_p, 0 <= s.min_p < 1, "at least 0 and below 1"),
            "stop": (s.stop, "" not in s.stop, "without the empty string, which any text contains"),
            "n": (request.n, request.n >= 1, "at least 1"),
            "num_top_logprobs": (
                request.num_top_logprobs,
                0 <= request.num_top_logprobs <= vocab_size,
                f"at least 0 (0 reports none) and at most the vocabulary's {vocab_size}",
            ),
            "deadline_seconds": (
                request.deadline_seconds,
                request.deadline_seconds is None or request.deadline_seconds > 0,
                "above 0, or None for no limit",
            ),
            "adapter": (
                repr(request.adapter),
                not request.adapter,
                "'', because this engine holds no adapters by name",
            ),
        }
        for name, (value, kept, rule) in rules.items():
            if not kept:
                raise ConfigError(f"request {number}: {name} is {value}; it must be {rule}")


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far an engine's raw log-probs lie from another model's of the same tokens, in nats;
    NaN where any is NaN.
    """

    max_gap: float
    mean_gap: float
    num_tokens: int


def agreement(samples: Sequence[tuple[Sequence[int], Sample]], score: Score) -> Agreement:
    """Compare what an engine reported with what `score` (the trainer's forward pass) gives.

    Args:
        samples: (prompt ids, sample). Raises nothing: a gap is for the caller to judge.
    """
    scores = score([([*prompt, *sample.ids], len(prompt)) for prompt, sample in samples])
    gaps = [
        abs(sampled - scored)
        for (_, sample), row in zip(samples, scores, strict=True)
        for sampled, scored in zip(sample.raw_logprobs, row, strict=True)
    ]
    worst = math.nan if any(math.isnan(gap) for gap in gaps) else max(gaps, default=0.0)
    return Agreement(worst, math.fsum(gaps) / len(gaps) if gaps else 0.0, len(gaps))


def probe(
    engine: Engine,
    score: Score,
    prompts: Sequence[tuple[int, ...]],
    *,
    max_tokens: int = 16,
    seed: int = 0,
) -> Agreement:
    """Sample a little with the engine's present weights and compare: run it after a weight sync.

    Args:
        score: the trainer's, for example `TorchEngine.score` of an engine on the trained model.
        prompts: a few prompts of token ids; each gets one sample of at most `max_tokens` at
        temperature 1.
    """
    requests = [Request(p, Sampling(max_tokens=max_tokens), seed=seed) for p in prompts]
    return agreement(
        [(p, group[0]) for p, group in zip(prompts, engine.generate(requests), strict=True)], score
    )
