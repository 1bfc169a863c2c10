"""What ends rows besides their own text: budgets that requests share, and deadlines."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from posttrain.budget import Budget
from posttrain.types import FinishReason, Request


def now() -> float:
    """Seconds of a clock that is never set back."""
    return time.monotonic()


@dataclass(frozen=True, slots=True, eq=False)
class Bound:
    """Of one request. deadline: by `now`, infinite where there is none. is_refused: its budget had
    no call left.
    """

    budget: Budget | None = None
    deadline: float = math.inf
    is_refused: bool = False

    @classmethod
    def of(cls, request: Request) -> Bound | None:
        """Of a request that begins now, None where nothing bounds it. Counts as a call."""
        budget, seconds = request.budget, request.deadline_seconds
        if budget is None and seconds is None:
            return None
        is_refused = budget is not None and not budget.call()
        return cls(budget, math.inf if seconds is None else now() + seconds, is_refused)

    @property
    def reason(self) -> FinishReason | None:
        """Why a row has to end now, None where it may go on."""
        if self.is_refused or (self.budget is not None and self.budget.tokens_left <= 0):
            return "budget"
        return "timeout" if now() >= self.deadline else None


def over_quota(bounds: Iterable[tuple[int, Bound | None]]) -> list[int]:
    """Lines that may not write one more token each, by (line, bound): those beyond what is left of
    their budget.
    """
    asked: Counter[Budget] = Counter()
    lines = []
    for line, bound in bounds:
        if bound is None or bound.budget is None:
            continue
        asked[bound.budget] += 1
        if asked[bound.budget] > bound.budget.tokens_left:
            lines.append(line)
    return lines


def spend(bounds: Iterable[Bound | None]) -> None:
    """Every row of these bounds has written a token."""
    counts = Counter(b.budget for b in bounds if b is not None and b.budget is not None)
    for budget, count in counts.items():
        budget.spend(count)
