"""From the use of labels to what learns from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from posttrain.errors import ConfigError
from posttrain.labellers.base import Row
from posttrain.learners.base import Learner
from posttrain.learners.classes import ClassLearner
from posttrain.learners.comparisons import ComparisonLearner
from posttrain.learners.language import DemonstrationLearner, LanguageLearner
from posttrain.methods.objects import Rows, TaskLike
from posttrain.models.spec import ModelSpec

Use = Literal["classes", "sft", "demonstrations", "preferences"]
"""What labels are for."""


def learner_of(
    use: Use,
    spec: ModelSpec,
    *,
    pool: Sequence[Row],
    eval_data: Rows | None = None,
    eval_task: TaskLike | None = None,
    task: TaskLike | None = None,
    labels: Sequence[str] | None = None,
    training: Mapping[str, Any] | None = None,
    num_examples: int = 100,
    num_samples: int = 4,
    max_length: int | None = None,
) -> Learner:
    """The learner of a use. The arguments are those of `posttrain.loops.active`.

    Raises:
        ConfigError: an argument is missing, or is of another use.
    """
    if use in ("classes", "preferences"):
        if eval_data is None or eval_task is not None:
            raise ConfigError(f"use {use!r} is measured on eval_data (held-out rows); name those")
        if use == "classes":
            return ClassLearner(
                spec,
                eval_data,
                pool,
                labels=labels,
                training=training,
                num_members=num_samples,
                max_length=max_length,
            )
        return ComparisonLearner(spec, eval_data, training=training, num_members=num_samples)
    if eval_task is None or eval_data is not None:
        raise ConfigError(f"use {use!r} is measured on eval_task (held-out problems); name it")
    if labels is not None:
        raise ConfigError(f"labels: use {use!r} has texts for labels, and no classes")
    kind = LanguageLearner if use == "sft" else DemonstrationLearner
    return kind(
        spec,
        eval_task,
        task=task,
        training=training,
        num_examples=num_examples,
        num_samples=num_samples,
    )
