"""Rubrics: several criteria for each row, judged one by one, and combined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from posttrain.config import EndpointConfig
from posttrain.errors import ConfigError, DataError, shown
from posttrain.registry import rewards
from posttrain.rewards.judge import JudgeReward
from posttrain.rewards.judge_questions import INSTRUCTION, criterion_question
from posttrain.rewards.reward import LoadedModels, made_by
from posttrain.types import Example, Sampling, Text

Aggregate = Literal["mean", "min", "product"]


@dataclass(frozen=True, slots=True)
class Criterion:
    """What an answer should (weight above 0) or should not (below 0) be."""

    text: str
    weight: float = 1.0


def criteria_of(example: Example, column: str, shared: Sequence[Any]) -> list[Criterion]:
    """The criteria of a row: those of its column, and those that all rows share.

    >>> [c.weight for c in criteria_of(Example("p", columns={"rubric": ["a"]}), "rubric", [])]
    [1.0]

    Raises:
        DataError: a criterion is neither a text nor {criterion: text, weight: number}, or there is
        none.
    """
    own = example.columns.get(column) or []
    criteria = [_criterion(value, example.id, column) for value in [*own, *shared]]
    if not criteria or not any(c.weight > 0 for c in criteria):
        raise DataError(
            f"row {example.id!r} has no criterion with a weight above 0 in its column {column!r}; "
            "give it one, or set criteria for all rows"
        )
    return criteria


def _criterion(value: Any, row: str, column: str) -> Criterion:
    if isinstance(value, str) and value.strip():
        return Criterion(value)
    if isinstance(value, Mapping):
        text, weight = value.get("criterion"), value.get("weight", 1.0)
        is_number = isinstance(weight, int | float) and np.isfinite(weight)
        if isinstance(text, str) and text.strip() and is_number:
            return Criterion(text, float(weight))
    raise DataError(
        f"row {row!r}: {shown(value)} in column {column!r} is no criterion; write a text, or "
        "{criterion: text, weight: number}"
    )


def combined(
    met: Sequence[float], weights: Sequence[float], aggregate: Aggregate = "mean"
) -> float:
    """One number from 0 to 1 of how far each criterion is met.

    >>> combined([1.0, 0.5, 1.0], [2.0, 1.0, -0.5])
    0.6666666666666666
    """
    if aggregate != "mean":
        good = [m if w > 0 else 1 - m for m, w in zip(met, weights, strict=True)]
        return float(min(good) if aggregate == "min" else np.prod(good))
    total = sum(m * w for m, w in zip(met, weights, strict=True))
    return float(np.clip(total / sum(w for w in weights if w > 0), 0.0, 1.0))


class RubricReward(JudgeReward):
    """The reward `rubric` with its settings."""

    name = "rubric"

    def __init__(
        self,
        models: LoadedModels,
        *,
        column: str = "rubric",
        criteria: Sequence[Any] = (),
        aggregate: Aggregate = "mean",
        endpoint: EndpointConfig | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(models, endpoint=endpoint, **settings)
        self.column, self.criteria, self.aggregate = column, list(criteria), aggregate

    def __call__(
        self, prompts: Sequence[Text], completions: Sequence[Text], examples: Sequence[Example]
    ) -> list[float]:
        """How far each completion meets the criteria of its row."""
        rubrics = [criteria_of(e, self.column, self.criteria) for e in examples]
        rows = [i for i, rubric in enumerate(rubrics) for _ in rubric]
        texts = [criterion.text for rubric in rubrics for criterion in rubric]
        met = self._met([prompts[i] for i in rows], [completions[i] for i in rows], texts)
        values, start = [], 0
        for rubric in rubrics:
            part = met[start : start + len(rubric)]
            values.append(combined(part, [c.weight for c in rubric], self.aggregate))
            start += len(rubric)
        return values

    def _met(
        self, prompts: Sequence[Text], completions: Sequence[Text], criteria: Sequence[str]
    ) -> list[float]:
        if self.endpoint is None:
            return self.judge().meets(prompts, completions, criteria)
        questions = [
            criterion_question(p, c, text, self.instruction or INSTRUCTION)
            for p, c, text in zip(prompts, completions, criteria, strict=True)
        ]
        sampling = Sampling(max_tokens=8, temperature=0.0)
        replies = self.replies(questions, sampling, n=1)
        return [float(row[0].strip().lower().startswith("yes")) for row in replies]

    def check(self) -> None:
        """See `Reward.check`."""
        super().check()
        for value in self.criteria:
            try:
                _criterion(value, "of all", "criteria")
            except DataError as error:
                raise ConfigError(f"rewards: rubric: {error}") from error


@rewards.register
@made_by(RubricReward)
def rubric(
    prompts,
    completions,
    examples,
    *,
    column: str = "rubric",
    criteria: list[Any] = [],
    aggregate: Literal["mean", "min", "product"] = "mean",
    path: str | None = None,
    engine: Any = None,
    endpoint: EndpointConfig | None = None,
    tokenizer: Any = None,
    instruction: str | None = None,
    chat: bool | None = None,
    device: str = "auto",
) -> list[float]:
    """How far a completion meets the criteria of its row, each judged by itself (rubrics as
    rewards, arXiv 2507.17746, explicit aggregation; pitfalls as in HealthBench, arXiv 2505.08775).

        r = clip(sum_j w_j c_j / sum_j max(w_j, 0), 0, 1),   c_j = P(yes) / (P(yes) + P(no))

    A row's column holds its criteria: texts, or {criterion: text, weight: number}. A weight below 0
    is of something that the answer should not do.

    Args:
        column: name of the column of criteria.
        criteria: criteria of all rows, added to those of a row.
        aggregate: mean (the equation), min or product of the criteria that are met.
        path: folder or hub id of the judge. engine: an engine of the judge's model in its place (in
            Python), with `tokenizer` where the engine has none. endpoint: a judge behind a server
            in their place, whose reply begins with yes or no.
        instruction: what stands before the question.
        chat: ask in a chat turn (left out: where the prompts are chat messages).
    """
    reward = RubricReward(
        LoadedModels(),
        column=column,
        criteria=criteria,
        aggregate=aggregate,
        path=path,
        engine=engine,
        endpoint=endpoint,
        tokenizer=tokenizer,
        instruction=instruction,
        chat=chat,
        device=device,
    )
    return reward(prompts, completions, examples)
