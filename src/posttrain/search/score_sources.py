"""Where scores come from: a task's verdict, a reward, log-probs, or several of these."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from posttrain.errors import ConfigError
from posttrain.rewards.base import RewardSet
from posttrain.rewards.grader import TaskGrader
from posttrain.rewards.model import combined
from posttrain.search.base import Candidate
from posttrain.types import Example, Sample, Trace

Items = Sequence[tuple[Example, Sequence[Candidate]]]
"""Examples with candidates of each."""

AGGREGATIONS: dict[str, Callable[[Sequence[float]], float]] = {
    "product": math.prod,
    "minimum": min,
    "last": lambda numbers: numbers[-1],
    "mean": lambda numbers: sum(numbers) / len(numbers),
}
"""How numbers of steps become one, by name."""

_PENDING = "\n..."  # a step that has not been written yet, behind the steps of a part


class ScoreSource(Protocol):
    """Gives each candidate a number."""

    def scores(self, items: Items, grader: TaskGrader | None) -> list[list[float]]:
        """A number for each candidate of each example; -inf where there is none."""
        ...

    def close(self) -> None:
        """Release what it holds."""
        ...


@dataclass(frozen=True, slots=True)
class Verdicts:
    """The task's own verdict: an oracle."""

    def scores(self, items: Items, grader: TaskGrader | None) -> list[list[float]]:
        """See `ScoreSource`."""
        if grader is None:
            raise ConfigError("scorer: oracle needs a task, whose verdict it is")
        return [grader.grades([c.text for c in group], example) for example, group in items]

    def close(self) -> None:
        """Nothing to release."""


@dataclass(frozen=True, slots=True)
class Logprobs:
    """The log-prob of a candidate under the model that sampled it, in nats; mean: per token. A
    candidate without tokens has none.
    """

    mean: bool

    def scores(self, items: Items, grader: TaskGrader | None) -> list[list[float]]:
        """See `ScoreSource`."""
        return [[self._number(c) for c in group] for _, group in items]

    def _number(self, candidate: Candidate) -> float:
        if self.mean or not candidate.ids:
            return candidate.mean_logprob
        return candidate.logprob

    def close(self) -> None:
        """Nothing to release."""


@dataclass(frozen=True, slots=True)
class RewardScores:
    """A reward. aggregation: of a reward that gives a number per step (see `AGGREGATIONS`).

    stops: texts at which a whole completion ends. judges_ends: the reward judges the last step as
    the end of a completion; of a candidate in part, a step that is still to be written stands
    behind its steps then, and its number is not used.
    """

    rewards: RewardSet
    aggregation: str = "mean"
    stops: tuple[str, ...] = ()
    judges_ends: bool = False

    def scores(self, items: Items, grader: TaskGrader | None) -> list[list[float]]:
        """See `ScoreSource`.

        Raises:
            RewardError: the reward fails too often.
        """
        pairs = [(e, self._trace(c)) for e, group in items for c in group]
        numbers = self.rewards.score_pairs(pairs)
        partial = [self._is_partial(c) for _, group in items for c in group]
        for i, (_, trace) in enumerate(pairs):
            if trace.step_rewards:
                (steps,) = trace.step_rewards.values()
                steps = steps[:-1] if partial[i] else steps
                numbers[i] = AGGREGATIONS[self.aggregation](steps) if steps else -math.inf
        rest = iter(numbers)
        return [[next(rest) for _ in group] for _, group in items]

    def close(self) -> None:
        """Release what the reward holds."""
        self.rewards.close()

    def _is_partial(self, candidate: Candidate) -> bool:
        """Whether a step that is still to be written stands behind a candidate's text."""
        stop = candidate.stop_string
        whole = candidate.ended and (stop is None or stop in self.stops)
        return self.judges_ends and not whole

    def _trace(self, candidate: Candidate) -> Trace:
        """A candidate as rewards read it."""
        text = candidate.text + (_PENDING if self._is_partial(candidate) else "")
        reason: Any = "stop" if candidate.ended else "length"
        sample = Sample(list(candidate.ids), [], [], reason, candidate.stop_string)
        return Trace.of_sample(candidate.context_ids, sample, text)


@dataclass(frozen=True, slots=True)
class Ensemble:
    """Several sources: the mean, the minimum, or mean - uncertainty_weight * standard deviation of
    their numbers, each times its weight. A candidate to which one gives no number has none.
    """

    sources: Sequence[ScoreSource]
    weights: Sequence[float]
    combine: Literal["mean", "min", "uncertainty"]
    uncertainty_weight: float

    def scores(self, items: Items, grader: TaskGrader | None) -> list[list[float]]:
        """See `ScoreSource`."""
        rows = [
            [weight * number for group in source.scores(items, grader) for number in group]
            for source, weight in zip(self.sources, self.weights, strict=True)
        ]
        table = np.array(rows)
        known = np.isfinite(table).all(axis=0)
        numbers = combined(np.where(known, table, 0.0), self.combine, self.uncertainty_weight)
        rest = iter(np.where(known, numbers, -math.inf).tolist())
        return [[next(rest) for _ in group] for _, group in items]

    def close(self) -> None:
        """Release what the sources hold."""
        for source in self.sources:
            source.close()
