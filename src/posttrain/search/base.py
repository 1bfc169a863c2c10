"""What search strategies are given and give back.

A strategy gets all prompts at once, so that an engine can work on them side by side; each prompt
keeps its own pool.
`generate(prompts, n, stop=(), max_tokens=None)` samples n continuations of each prompt of token
ids. A candidate's ids put behind its prompt are a prompt again, which is how step-wise searches go
on. `score(index, candidates)` are the scorer's numbers of whole candidates of `prompts[index]`; the
index and not the prompt says which problem is meant, because two problems may have one prompt.
`value(states)` are a critic's values of lists of ids, `decode(ids)` is the text of a completion's
ids, and
`extract(text)` its answer.

A strategy that takes `score` needs a scorer by name (`scorer: {name: reward_model, path: FOLDER}`).
The gold answer is never taken by default: `scorer: oracle` asks for the task's own verdict, and is
reported as an oracle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from posttrain.engines.base import Engine
from posttrain.types import Request, Sample, Sampling

Ids = tuple[int, ...]


@dataclass(slots=True)
class Candidate:
    """A sampled continuation. logprob: sum of the raw log-probs of its tokens, nats. ended: it
    stopped by itself.

    stop_string: the stop string at which it did, None where it ended with an end token or at the
    length limit.
    """

    ids: Ids
    text: str
    logprob: float
    ended: bool
    stop_string: str | None = None

    @property
    def mean_logprob(self) -> float:
        """Per token, so that long candidates are not at a disadvantage."""
        return self.logprob / max(len(self.ids), 1)


@dataclass(slots=True)
class Selection:
    """What a strategy chose for one prompt.

    text, answer: the chosen one's. index: its place among `candidates`. votes: answer -> weight,
    where there was a vote.
    num_tokens: all tokens sampled for this prompt, the discarded ones included.
    """

    text: str
    answer: str | None
    index: int
    candidates: list[Candidate]
    num_tokens: int
    votes: dict[str, float] = field(default_factory=dict)


class Generate(Protocol):
    """The sampling that a strategy may do. sampling: how, and how many tokens a whole
    completion may have.
    """

    sampling: Sampling

    def __call__(
        self,
        prompts: Sequence[Ids],
        n: int,
        *,
        stop: tuple[str, ...] = (),
        max_tokens: int | Sequence[int] | None = None,
    ) -> list[list[Candidate]]:
        """n candidates for each prompt. max_tokens: new tokens, one bound, or one per prompt."""
        ...


class Sampler:
    """`generate` on an engine. Each call draws from fresh seeds, and the same sequence of calls
    gives the same samples.

    Args:
        decode: sample -> text. seeds: one per prompt of the first call, so that two models are
        asked alike.
    """

    def __init__(
        self,
        engine: Engine,
        decode: Callable[[Sample], str],
        sampling: Sampling,
        seeds: Sequence[int],
    ) -> None:
        self.engine = engine
        self.decode = decode
        self.sampling = sampling
        self.seeds = list(seeds)
        self.calls = 0

    def __call__(
        self,
        prompts: Sequence[Ids],
        n: int,
        *,
        stop: tuple[str, ...] = (),
        max_tokens: int | Sequence[int] | None = None,
    ) -> list[list[Candidate]]:
        bounds = max_tokens or self.sampling.max_tokens
        bounds = [bounds] * len(prompts) if isinstance(bounds, int) else bounds
        sampling = [
            replace(self.sampling, stop=stop or self.sampling.stop, max_tokens=bound)
            for bound in bounds
        ]
        # A different odd factor per call keeps later calls from repeating earlier draws.
        shift = self.calls * 1_000_003
        self.calls += 1
        requests = [
            Request(p, s, n=n, seed=self.seeds[i % len(self.seeds)] + shift + i // len(self.seeds))
            for i, (p, s) in enumerate(zip(prompts, sampling, strict=True))
        ]
        return [[self._candidate(s) for s in group] for group in self.engine.generate(requests)]

    def _candidate(self, sample: Sample) -> Candidate:
        return Candidate(
            tuple(sample.ids),
            self.decode(sample),
            float(sum(sample.raw_logprobs)),
            sample.finish_reason == "stop",
            sample.stop_string,
        )


def select(
    candidates: list[Candidate],
    index: int,
    extract: Callable[[str], str | None],
    votes: dict[str, float] | None = None,
) -> Selection:
    """A selection of one of the candidates, with all their tokens counted."""
    chosen = candidates[index]
    spent = sum(len(c.ids) for c in candidates)
    return Selection(chosen.text, extract(chosen.text), index, candidates, spent, votes or {})
