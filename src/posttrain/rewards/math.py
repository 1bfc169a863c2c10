"""Mathematical equality, judged in processes that can be killed: never on the trainer's own
signals or threads.
"""

from __future__ import annotations

import atexit
import queue
import re
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import Any

from posttrain.errors import MissingDependency
from posttrain.registry import rewards
from posttrain.rewards.exact import extract_answer, last_boxed, parse_number
from posttrain.rewards.expression_cost import too_heavy
from posttrain.rewards.quantity import clean, compact, expand, scaled, split_unit
from posttrain.rewards.reward import known_answers
from posttrain.rewards.worker import Worker

_MAX_CACHED = 50_000
_MAX_TEXT = 4000  # longer ones are compared as texts
_OPTION = re.compile(r"(?:\\text(?:bf|rm)?\s*\{)?\s*(?:\(([A-H])\)|([A-H])(?:\)|[.:](?=[\s}])))")
_OPTION_MARK = re.compile(r"\(([A-H])\)|\b[A-H]\)|\b(?:or|and)\b")


class MathPool:
    """A few judging processes behind a cache.

    Args:
        num_workers: processes, started on first use. seconds: deadline of one verdict.
    """

    def __init__(self, num_workers: int = 2, seconds: float = 8.0) -> None:
        self.seconds = seconds
        self._idle: queue.LifoQueue[Worker] = queue.LifoQueue()
        self._workers = [
            Worker(
                "posttrain.rewards.math_worker", missing=MissingDependency("math-verify", "math")
            )
            for _ in range(num_workers)
        ]
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(num_workers, thread_name_prefix="math-pool")
        self._cache: OrderedDict[tuple[str, str], bool | None] = OrderedDict()
        self._lock = threading.Lock()

    def equal(self, pairs: list[tuple[str, str | None]]) -> list[bool | None]:
        """For each (gold, prediction) whether they are equal; None where no verdict came in
        time. None never equals.
        """
        return list(self._threads.map(self._equal, pairs))

    def _equal(self, pair: tuple[str, str | None]) -> bool | None:
        settled = settle(pair[0], pair[1] or "")
        if isinstance(settled, bool):
            return settled
        gold, prediction = settled
        with self._lock:
            if (gold, prediction) in self._cache:
                self._cache.move_to_end((gold, prediction))
                return self._cache[gold, prediction]
        worker = self._idle.get()
        try:
            answer = worker.ask([gold, prediction], self.seconds)
        finally:
            self._idle.put(worker)
        verdict = answer if isinstance(answer, bool) else None
        with self._lock:
            self._cache[gold, prediction] = verdict
            if len(self._cache) > _MAX_CACHED:
                self._cache.popitem(last=False)
        return verdict

    def close(self) -> None:
        """End all processes."""
        for worker in self._workers:
            worker.kill()


def settle(gold: str, prediction: str) -> bool | tuple[str, str]:
    """The verdict where no parser is needed; else the two expressions that math-verify compares.

    Settled here are equal texts, numbers, units of different dimensions, what is too heavy to
    parse, and letters of choices.
    """
    if max(len(gold), len(prediction)) > _MAX_TEXT:
        return gold.strip() == prediction.strip()
    gold, prediction = clean(gold), clean(prediction)
    if not prediction:
        return False
    if compact(gold) == compact(prediction):
        return True
    if too_heavy(prediction) or too_heavy(gold):
        return False
    if len(gold) == 1 and (option := _OPTION.match(prediction)):
        others = _OPTION_MARK.findall(prediction, option.end())
        return gold in (option[1], option[2]) and not others
    (left, left_unit), (right, right_unit) = split_unit(gold), split_unit(prediction)
    if left_unit is not None and right_unit is not None:
        if left_unit.dimension != right_unit.dimension:
            return False
        factors = left_unit.factor, right_unit.factor
        if factors[0] == factors[1]:
            factors = Fraction(1), Fraction(1)
    elif unit := left_unit or right_unit:
        # A unit that only one side has is left out by the other, but % changes the value.
        if unit.letter:
            left, right = gold, prediction
        factors = (Fraction(1), Fraction(1))
        if not unit.implied:
            factors = (unit.factor, factors[1]) if left_unit else (factors[0], unit.factor)
    else:
        factors = Fraction(1), Fraction(1)
    return _compared(left, right, *factors)


def _compared(
    left: str, right: str, left_factor: Fraction, right_factor: Fraction
) -> bool | tuple[str, str]:
    a, b = (None if "%" in x else parse_number(x) for x in (left, right))
    if a is not None and b is not None:
        return a * left_factor == b * right_factor
    # Decimals stay as written, because math-verify rounds them; it cannot read 1e3.
    left, right = (
        str(n) if n is not None and "e" in x.lower() else expand(x)
        for n, x in ((a, left), (b, right))
    )
    if compact(left) == compact(right) and left_factor == right_factor:
        return True
    return scaled(left, left_factor), scaled(right, right_factor)


_pools: list[MathPool] = []


def shared_pool() -> MathPool:
    """The pool of this process, made on first use and closed at its end."""
    if not _pools:
        _pools.append(MathPool())
        atexit.register(_pools[0].close)
    return _pools[0]


def _prediction(text: str) -> str | None:
    boxed = last_boxed(text)
    return (
        boxed
        if boxed is not None
        else extract_answer(text, "hash") or extract_answer(text, "last_number")
    )


@rewards.register
@known_answers(
    (r"thus \boxed{\frac{1}{2}}", "0.5", 1.0),
    (r"thus \boxed{3}", "4", 0.0),
    ("", "4", 0.0),
)
def math(completions, answer) -> list[float]:
    r"""1 where the final answer is mathematically equal to the column `answer`, else 0 (math-verify
    in separate processes with a time limit).

    The final answer is the last \boxed{...}; without one, what follows "####"; without that, the
    last number. Equal strings and numbers are settled without a parser; expressions too heavy to
    parse, and verdicts that miss their deadline, are 0. A final period does not count. 8\% is 0.08
    and not 8 (rewards `exact` and task gsm8k drop the sign, as answers to word problems do). Two
    units are compared, also 5 m with 500 cm; a unit of several letters that one side leaves out
    does not count (a single letter may be a variable).
    """
    texts: list[Any] = [c if isinstance(c, str) else str(c[-1]["content"]) for c in completions]
    pairs = [(str(a), _prediction(t)) for t, a in zip(texts, answer, strict=True)]
    return [float(verdict is True) for verdict in shared_pool().equal(pairs)]
