"""What search strategies are given and give back.

A strategy is a coroutine about one prompt; a driver runs many of them on one engine, and what they
wait for together is one batch. Its positional parameters are filled by name (see
`posttrain.inputs.SEARCH_INPUTS`), its keyword-only parameters are its settings:

    async def majority_vote(prompt, ask, extract, *, num_samples: int = 8) -> Selection

A candidate's ids put behind its prompt are a prompt again, which is how step-wise searches go on;
the engine computes only what is new.

A strategy that takes `score` needs a scorer by name (`scorer: {name: reward_model, path: FOLDER}`).
The gold answer is never taken by default: `scorer: oracle` asks for the task's own verdict, and is
reported as an oracle.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from posttrain.types import TopTokens

Ids = tuple[int, ...]

TopLogprobs = tuple[TopTokens, ...]
"""For each token, the most likely ids in its place with their raw log-probs in nats, best first."""


@dataclass(frozen=True, slots=True)
class Step:
    """A part of a candidate. end: place behind its last token. score: of the candidate up to
    there; None where it was not scored.
    """

    end: int
    score: float | None = None


@dataclass(slots=True)
class Candidate:
    """A sampled continuation, whole or in part.

    ids, text: behind its context. logprob: sum of the raw log-probs of its tokens, nats. ended: it
    stopped by itself, with an end token or a stop string. stop_string: the stop string at which it
    stopped, else None. logprobs: raw, of each token; empty where they are not known. top_logprobs:
    as many as were asked for. context_ids: what was before it. steps: the parts that a step-wise
    search sampled one after the other. score: the scorer's, None where it was not asked. given:
    of each token, whether the search has put it there and the policy has not sampled it; empty:
    none.
    """

    ids: Ids
    text: str
    logprob: float
    ended: bool
    stop_string: str | None = None
    logprobs: tuple[float, ...] = ()
    top_logprobs: TopLogprobs = ()
    context_ids: Ids = ()
    steps: tuple[Step, ...] = ()
    score: float | None = None
    given: tuple[bool, ...] = ()

    @property
    def mean_logprob(self) -> float:
        """Per token, so that long candidates are not at a disadvantage; -inf without tokens, so
        that a sample which the budget left empty is never the likeliest.
        """
        return self.logprob / len(self.ids) if self.ids else -math.inf

    def grown(self, step: Candidate, decode: Callable[[Ids], str]) -> Candidate:
        """This candidate with a step behind it, which was sampled in its context.

        decode: ids -> text. A stop string at the end is not part of the text.
        """
        ids = (*self.ids, *step.ids)
        text = decode(ids)
        if step.stop_string is not None and step.stop_string in text:
            text = text[: text.rindex(step.stop_string)]
        return replace(
            self,
            ids=ids,
            text=text,
            logprob=self.logprob + step.logprob,
            ended=step.ended,
            stop_string=step.stop_string,
            logprobs=(*self.logprobs, *step.logprobs),
            top_logprobs=(*self.top_logprobs, *step.top_logprobs),
            steps=(*self.steps, Step(len(ids))),
            score=None,
            given=_joined(self, step),
        )

    def scored(self, score: float) -> Candidate:
        """This candidate with a score, which its last step gets too."""
        steps = self.steps
        if steps:
            steps = (*steps[:-1], replace(steps[-1], score=score))
        return replace(self, score=score, steps=steps)


def _joined(first: Candidate, second: Candidate) -> tuple[bool, ...]:
    """`given` of two candidates, one behind the other."""
    if not (first.given or second.given):
        return ()
    return tuple(was for c in (first, second) for was in c.given or (False,) * len(c.ids))


@dataclass(slots=True)
class Ledger:
    """What a search has spent.

    num_calls: calls of the engine. num_samples: samples asked for. prompt_tokens: of the prompts
    of all calls, each call's prompt once; reused_tokens: those of them that were not computed again
    (0 where an engine does not report them). sampled_tokens: all, those of discarded candidates and
    of cancelled calls included. num_scored: candidates and states that a scorer or a critic read.
    seconds: from the beginning to the end of the search, others beside it included.
    """

    num_calls: int = 0
    num_samples: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    sampled_tokens: int = 0
    num_scored: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class Selection:
    """What a strategy chose for one prompt.

    text, answer: the chosen one's; answer None where there is none. abstained: the strategy gives
    no answer, which counts as wrong.
    index: its place among `candidates`. votes: answer -> weight, where there was a vote.
    num_tokens: all tokens sampled for this prompt, the discarded ones included. notes: numbers that
    the strategy reports, such as how many samples it stopped early. ledger: filled by the driver.
    """

    text: str
    answer: str | None
    index: int
    candidates: list[Candidate]
    num_tokens: int
    votes: dict[str, float] = field(default_factory=dict)
    notes: dict[str, float] = field(default_factory=dict)
    ledger: Ledger | None = None
    abstained: bool = False


def select(
    candidates: list[Candidate],
    index: int,
    extract: Callable[[str], str | None],
    votes: dict[str, float] | None = None,
    **notes: float,
) -> Selection:
    """A selection of one of the candidates.

    notes: numbers to report.
    """
    chosen = candidates[index]
    sampled = sum(len(c.ids) for c in candidates)
    return Selection(
        chosen.text, extract(chosen.text), index, candidates, sampled, votes or {}, notes
    )


def distinct(candidates: Iterable[Candidate]) -> list[Candidate]:
    """The first candidate of each sequence of ids, in order."""
    first: dict[tuple[Ids, Ids], Candidate] = {}
    for candidate in candidates:
        first.setdefault((candidate.context_ids, candidate.ids), candidate)
    return list(first.values())
