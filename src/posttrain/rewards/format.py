"""Rewards for form: tags, patterns, words, length."""

from __future__ import annotations

import atexit
import math
import re
import threading

from posttrain.errors import ConfigError
from posttrain.registry import rewards
from posttrain.rewards.worker import Worker


def _text(completion) -> str:
    return completion if isinstance(completion, str) else str(completion[-1]["content"])


@rewards.register
def tags(
    completions, *, names: list[str] = ["think", "answer"], partial: bool = False
) -> list[float]:
    """1 for a completion that is exactly <a>...</a><b>...</b> for the given names in order, white
    space between aside.

    With partial, each of the opening and closing tags that stands there once gives an equal share.
    """
    body = r"\s*".join(
        rf"<{re.escape(n)}>(?:(?!</?{re.escape(n)}>).)*</{re.escape(n)}>" for n in names
    )
    whole = re.compile(rf"\s*{body}\s*", re.DOTALL)
    marks = [m for n in names for m in (f"<{n}>", f"</{n}>")]
    out = []
    for text in map(_text, completions):
        if partial:
            out.append(sum(text.count(m) == 1 for m in marks) / len(marks))
        else:
            out.append(float(whole.fullmatch(text) is not None))
    return out


@rewards.register
def pattern(completions, *, regex: str, timeout_seconds: float = 2.0) -> list[float | TimeoutError]:
    """1 where the regular expression matches somewhere in the completion (use ^ and $ to anchor),
    else 0.

    The search runs in a process that can be killed. One that takes longer than timeout_seconds, as
    nested repeats such as (a+)+$ do, is a recorded failure of its completion.
    """
    try:
        re.compile(regex, re.DOTALL)
    except (re.error, RecursionError, OverflowError) as error:
        raise ConfigError(
            f"rewards: pattern: {regex!r} is not a regular expression: {error}"
        ) from error
    if not 0 < timeout_seconds < math.inf:
        raise ConfigError(f"rewards: pattern: timeout_seconds {timeout_seconds} must be above 0")
    verdicts: list[float | TimeoutError] = []
    for text in map(_text, completions):
        with _lock:
            matches = _searcher().ask([regex, text], timeout_seconds)
        late = TimeoutError(
            f"the search took longer than {timeout_seconds:g} s; simplify the regex"
        )
        verdicts.append(late if matches is None else float(matches))
    return verdicts


_lock = threading.Lock()
_searchers: list[Worker] = []


def _searcher() -> Worker:
    """The searching process, started on first use and ended with this one."""
    if not _searchers:
        _searchers.append(Worker("posttrain.rewards.pattern_worker"))
        atexit.register(_searchers[0].kill)
    return _searchers[0]


@rewards.register
def keyword(completions, *, words: list[str]) -> list[float]:
    """Share of the words that occur in the completion, whatever their case."""
    return [
        sum(w.lower() in text.lower() for w in words) / len(words)
        for text in map(_text, completions)
    ]


@rewards.register
def length(completion_ids, *, target: int = 64) -> list[float]:
    """Nearness of the number of tokens n to a target: 1 - |n - target| / target, at least 0."""
    return [max(0.0, 1 - abs(len(ids) - target) / target) for ids in completion_ids]


@rewards.register
def overlong(completion_ids, *, max_length: int, buffer: int) -> list[float]:
    """DAPO's soft penalty for long completions (arXiv 2503.14476, eq. 13), in tokens.

    0 up to max_length - buffer; then (max_length - buffer - n) / buffer; -1 beyond max_length.
    """
    if not 0 < buffer < max_length:
        raise ConfigError(
            f"rewards: overlong: buffer {buffer} must be above 0 and below max_length {max_length}"
        )
    return [
        min(0.0, max(-1.0, (max_length - buffer - len(ids)) / buffer)) for ids in completion_ids
    ]
