"""Rewards for form: tags, patterns, words, length."""

from __future__ import annotations

import re

from posttrain.errors import ConfigError
from posttrain.registry import rewards


def _text(completion) -> str:
    return completion if isinstance(completion, str) else str(completion[-1]["content"])


@rewards.register
def tags(completions, *, names: list[str] = ["think", "answer"], partial: bool = False) -> list[float]:
    """1 for a completion that is exactly <a>...</a><b>...</b> for the given names in order, white space between aside.

    With partial, each of the opening and closing tags that stands there once gives an equal share.
    """
    body = r"\s*".join(rf"<{re.escape(n)}>(?:(?!</?{re.escape(n)}>).)*</{re.escape(n)}>" for n in names)
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
def pattern(completions, *, regex: str) -> list[float]:
    """1 where the regular expression matches somewhere in the completion (use ^ and $ to anchor), else 0."""
    try:
        compiled = re.compile(regex, re.DOTALL)
    except re.error as error:
        raise ConfigError(f"rewards: pattern: {regex!r} is not a regular expression: {error}") from error
    return [float(compiled.search(text) is not None) for text in map(_text, completions)]


@rewards.register
def keyword(completions, *, words: list[str]) -> list[float]:
    """Share of the words that occur in the completion, whatever their case."""
    return [sum(w.lower() in text.lower() for w in words) / len(words) for text in map(_text, completions)]


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
        raise ConfigError(f"rewards: overlong: buffer {buffer} must be above 0 and below max_length {max_length}")
    return [min(0.0, max(-1.0, (max_length - buffer - len(ids)) / buffer)) for ids in completion_ids]
