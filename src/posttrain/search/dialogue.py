"""A problem with what was said about it: the contexts of strategies that give instructions.

A problem is plain text or chat messages. In messages an instruction is a user turn behind the
assistant's; behind plain text it stands after a blank line. `{problem}` in an instruction is the
last user turn, or the whole text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from posttrain.errors import ConfigError
from posttrain.search.base import Candidate, Ids
from posttrain.types import Message, Text

_FIELD = re.compile(r"\{(\w+)\}")
_NUMBER = re.compile(r"^\s*(?:[-*\u2022]|\(?[A-Za-z]{0,2}\d+[.):])\s*")


def question_of(problem: Text) -> str:
    """The last user turn, or the whole text."""
    if isinstance(problem, str):
        return problem
    return str(problem[_last_user(problem)].get("content", "")) if problem else ""


def rewritten(problem: Text, question: str) -> Text:
    """The problem with another question in place of its own; what stands around it stays."""
    if isinstance(problem, str) or not problem:
        return question
    last = _last_user(problem)
    return [{**m, "content": question} if i == last else m for i, m in enumerate(problem)]


def followed(problem: Text, turns: Iterable[tuple[str, str]]) -> Text:
    """The problem, and behind it what the model wrote and the instruction that follows, in turn."""
    if isinstance(problem, str):
        return problem + "".join(f"{text}\n\n{instruction}" for text, instruction in turns)
    messages: list[Message] = list(problem)
    for text, instruction in turns:
        messages.append({"role": "assistant", "content": text})
        messages.append({"role": "user", "content": instruction.strip()})
    return messages


def filled(template: str, **fields: str) -> str:
    """A template with its fields replaced, in one pass: braces in what is filled in are text."""
    return _FIELD.sub(lambda match: fields.get(match[1], match[0]), template)


def check_template(place: str, template: str, needed: Sequence[str]) -> None:
    """Refuse a template that does not hold its fields.

    Args:
        place: strategy and setting, for messages.

    Raises:
        ConfigError: names the field that is missing.
    """
    fields = set(_FIELD.findall(template))
    for name in needed:
        if name not in fields:
            raise ConfigError(
                f"{place}: {template!r} must hold {{{name}}}, which is filled in for each problem"
            )


def lines_of(text: str, limit: int) -> list[str]:
    """The items of a list that a model wrote, one a line, without bullets and numbers; of equal
    ones the first, at most `limit`.
    """
    items = (_NUMBER.sub("", line).strip() for line in text.splitlines())
    return list(dict.fromkeys(item for item in items if item))[:limit]


async def reply(ask: Any, context: Ids, **more: Any) -> Candidate:
    """One candidate behind a context. more: see `Ask`."""
    (candidate,) = await ask(context, 1, **more)
    return candidate


def is_cut(candidate: Candidate) -> bool:
    """Whether nothing was written because nothing may be: the budget or the context is used up."""
    return not candidate.ids and not candidate.ended


def last_answered(candidates: Sequence[Candidate], extract: Callable[[str], str | None]) -> int:
    """The place of the last candidate with an answer; without one, of the last with text, else
    the first.
    """
    for has in (lambda c: extract(c.text) is not None, lambda c: c.text.strip()):
        places = [i for i, candidate in enumerate(candidates) if has(candidate)]
        if places:
            return places[-1]
    return 0


def _last_user(messages: Sequence[Message]) -> int:
    users = [i for i, message in enumerate(messages) if message.get("role") == "user"]
    return users[-1] if users else len(messages) - 1
