"""One prompt and one completion, as an episode."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from posttrain.data.templates import decode_completion, encode_prompt
from posttrain.episodes.ask import Ask
from posttrain.types import Example, Trace

Episode = Callable[[Example, Ask, Sequence[Any]], Coroutine[Any, Any, Trace]]
"""async (example, ask, tools) -> Trace. tools: functions that the model may call."""


def single_turn(tokenizer: Any, *, system: str | None = None) -> Episode:
    """The episode of a prompt and its completion.

    Args:
        system: system message; before plain text, with a blank line between them.
    """

    async def episode(example: Example, ask: Ask, tools: Sequence[Any] = ()) -> Trace:
        ids = tuple(encode_prompt(tokenizer, example.prompt, system=system))
        (sample,) = await ask(ids)
        return Trace.of_sample(ids, sample, decode_completion(tokenizer, sample))

    return episode
