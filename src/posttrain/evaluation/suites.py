"""A suite of problems or rows, measured before and after a training."""

from __future__ import annotations

import math
from collections.abc import Sequence

from posttrain.errors import DataError
from posttrain.evaluation.comparison import compare
from posttrain.evaluation.forgetting import Change
from posttrain.evaluation.outcomes import Evaluation
from posttrain.evaluation.statistics import Difference, paired_ratio


def graded_change(before: Evaluation, after: Evaluation, *, name: str = "") -> Change:
    """A suite of graded problems, before and after.

    Raises:
        DataError: the two evaluations are not of the same problems.
    """
    comparison = compare(before, after)
    d = comparison.difference
    single = Difference(d.estimate, d.low, d.high, comparison.p_value, d.n)
    right = {(o.id, o.fingerprint): _is_right(o.correct) for o in before.outcomes}
    pairs = [(right[o.id, o.fingerprint], _is_right(o.correct)) for o in after.outcomes]
    return Change(
        name or before.task,
        "accuracy",
        before.accuracy().estimate,
        after.accuracy().estimate,
        single,
        gained=sum(new and not old for old, new in pairs),
        lost=sum(old and not new for old, new in pairs),
    )


def likelihood_change(
    name: str, before: Sequence[float], after: Sequence[float], num_tokens: Sequence[int]
) -> Change:
    """A suite of rows, before and after.

    Args:
        before, after: negative log-likelihood of each row, nats. num_tokens: of each row.
    Raises:
        DataError: there is nothing to compare.
    """
    if not num_tokens or sum(num_tokens) == 0:
        raise DataError(f"suite {name!r} has no tokens to predict; give it rows")
    total = sum(num_tokens)
    return Change(
        name,
        "nats",
        math.fsum(before) / total,
        math.fsum(after) / total,
        paired_ratio(before, after, num_tokens),
    )


def _is_right(correct: Sequence[int]) -> bool:
    return 2 * sum(correct) > len(correct)
