"""Votes over the tool calls that samples make."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, Literal

from posttrain.episodes.tool_calls import Completion, parser_for
from posttrain.registry import searches
from posttrain.search.base import Selection
from posttrain.search.vote import vote


@searches.register
async def tool_vote(
    prompt,
    ask,
    extract,
    *,
    num_samples: int = 8,
    form: Literal["hermes", "qwen_coder", "llama", "mistral"] = "hermes",
    by: Literal["call", "name"] = "call",
) -> Selection:
    """Self-consistency over actions: the most frequent tool calls of several samples.

        key(y) = JSON of [(name, arguments), ...] with sorted keys;  argmax_k #{i : key(y_i) = k}

    Two samples agree where they call the same tools with equal arguments in the same order,
    whatever they say beside the calls. A sample that calls nothing votes with its extracted answer.
    Calls that cannot be read have no vote (note unreadable counts them). The answer is the key.

    num_samples: samples that vote. form: how the model writes calls. by: call votes over whole
    calls; name first over the names of the tools, then over the calls that have the winning names.
    """
    candidates = await ask(prompt, num_samples)
    parse = parser_for(None, form)
    completions = [parse(candidate.text) for candidate in candidates]
    keys = [_key(parsed, extract, c.text) for parsed, c in zip(completions, candidates)]
    if by == "name":
        keys = _of_first_names(completions, keys)
    by_text = {c.text: key for c, key in zip(candidates, keys)}
    unreadable = sum(bool(parsed.errors) for parsed in completions)
    return vote(candidates, [1.0] * num_samples, by_text.get, unreadable=float(unreadable))


def canonical_calls(completion: Completion) -> str | None:
    """The calls of a completion as JSON with sorted keys; None where there are none, or one of
    them cannot be read.

    >>> canonical_calls(parser_for(None, "llama")('{"name": "f", "arguments": {"b": 1, "a": 2.0}}'))
    '[{"arguments": {"a": 2, "b": 1}, "name": "f"}]'
    """
    if completion.errors or not completion.calls:
        return None
    calls = [{"name": c.name, "arguments": _plain(c.arguments)} for c in completion.calls]
    return json.dumps(calls, sort_keys=True, ensure_ascii=False)


def _plain(value: Any) -> Any:
    """The value with one spelling for equal numbers: 2.0 is 2."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _key(completion: Completion, extract: Any, text: str) -> str | None:
    """What a sample votes for."""
    if completion.errors:
        return None
    return canonical_calls(completion) or extract(text)


def _of_first_names(completions: list[Completion], keys: list[str | None]) -> list[str | None]:
    """The keys of those completions that call the most frequent tools; None for the others.

    A tie goes to the names that were written first.
    """
    names = [tuple(call.name for call in parsed.calls) for parsed in completions]
    counts = Counter(n for n, key in zip(names, keys) if key is not None)
    if not counts:
        return keys
    (first, _), *_ = counts.most_common(1)
    return [key if n == first else None for n, key in zip(names, keys)]
