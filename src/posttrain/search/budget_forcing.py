"""Thinking of a length that is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from posttrain.errors import ConfigError
from posttrain.registry import searches
from posttrain.search.ask import path_room
from posttrain.search.base import Candidate, Ids, Selection, select
from posttrain.search.token_paths import Decode

Encode = Callable[[str], Ids]
"""Text -> token ids to put behind others."""


@searches.register(zero=("num_waits",))
async def budget_forcing(
    prompt,
    ask,
    extract,
    decode,
    encode,
    *,
    think_end: str = "####",
    wait: str = "Wait",
    answer_cue: str = "",
    num_waits: int = 1,
    min_thinking_tokens: int | None = None,
    max_thinking_tokens: int | None = None,
    num_answer_tokens: int = 100,
) -> Selection:
    """Budget forcing (s1, Muennighoff et al., arXiv 2501.19393).

        think until think_end, an end token, a stop string, or max_thinking_tokens
        while it ended by itself below min_thinking_tokens, num_waits times at most:
            take the end away, put `wait` there, think on
        put think_end (where the thinking was cut, or ended otherwise) and answer_cue; answer

    The defaults fit answers behind "####". For a model that thinks in tags: think_end "</think>",
    answer_cue "\\n\\nFinal Answer:".

    All is within the length of a completion; what is put there counts, and has log-prob 0. The
    tokens of the answer, at most half of what there is, are kept from the thinking, also in the
    search's budget. Notes: num_waits, num_thinking_tokens, num_forced (1 where the thinking was
    cut).

    think_end: what ends the thinking. wait: what is put in place of an end. answer_cue: what the
    answer begins with. num_waits: at most; 0 is none. min_thinking_tokens: None waits num_waits
    times whatever the length, 0 never. max_thinking_tokens: None leaves all but the answer's.
    num_answer_tokens: kept for the answer; it may take more where the thinking leaves them.
    """
    if not think_end or not wait or num_answer_tokens < 1:
        raise ConfigError(
            f"budget_forcing: think_end {think_end!r} and wait {wait!r} must not be empty, and "
            f"num_answer_tokens {num_answer_tokens} at least 1"
        )
    cue = tuple(encode(think_end + answer_cue))
    room = _length(prompt, ask) - len(cue)
    reserved = max(min(num_answer_tokens, room // 2), 0)
    limit = room - reserved
    if max_thinking_tokens is not None:
        limit = min(limit, max_thinking_tokens)
    if limit < 1:  # there is no room for a cue and an answer
        return select(await ask(prompt), 0, extract, num_waits=0.0, num_forced=0.0)
    thinking = _Thinking(
        tuple(prompt), ask, decode, encode, think_end, tuple(encode(wait)), limit, reserved
    )
    path, waits = await thinking.run(num_waits, min_thinking_tokens)
    if path.stop_string == think_end:
        begun = put(path, tuple(encode(answer_cue)) if answer_cue else ())
    else:
        begun = put(without_end(path, decode, encode), cue)
    (answer,) = await ask((*prompt, *begun.ids), max_tokens=path_room(ask, begun.ids))
    whole = begun.grown(answer, decode) if answer.ids else path
    return select(
        [replace(whole, text=whole.text if answer.ids else decode(whole.ids), steps=())],
        0,
        extract,
        num_waits=float(waits),
        num_forced=float(not path.ended),
        num_thinking_tokens=float(len(path.ids)),
    )


def _length(prompt: Ids, ask) -> int:
    """Tokens that a completion may have."""
    if ask.context_length is None:
        return int(ask.sampling.max_tokens)
    return int(min(ask.sampling.max_tokens, ask.context_length - len(prompt)))


@dataclass(frozen=True, slots=True)
class _Thinking:
    """limit: tokens of the thinking. reserved: tokens of the answer."""

    prompt: Ids
    ask: Any
    decode: Decode
    encode: Encode
    think_end: str
    wait: Ids
    limit: int
    reserved: int

    async def run(self, num_waits: int, at_least: int | None) -> tuple[Candidate, int]:
        """The thinking, ended or cut, and how often it was made to go on."""
        path = Candidate((), "", 0.0, False, context_ids=self.prompt)
        waits = 0
        reserved = min(self.reserved, self.ask.budget.tokens_left // 2)
        while True:
            room = min(self.limit - len(path.ids), self.ask.budget.tokens_left - reserved)
            if room < 1:
                return replace(path, ended=False, stop_string=None), waits
            (step,) = await self.ask(
                (*self.prompt, *path.ids), stop=(self.think_end,), max_tokens=int(room)
            )
            path = path.grown(step, self.decode)
            is_long = at_least is not None and len(path.ids) >= at_least
            if not path.ended or is_long or waits == num_waits:
                return path, waits
            longer = put(without_end(path, self.decode, self.encode), self.wait)
            if len(longer.ids) >= self.limit:
                return path, waits
            path, waits = longer, waits + 1


def put(path: Candidate, ids: Ids) -> Candidate:
    """A path with ids behind it that nobody sampled; their log-prob counts as 0."""
    sampled = path.given or (False,) * len(path.ids)
    return replace(
        path,
        given=(*sampled, *(True for _ in ids)) if path.given or ids else (),
        ids=(*path.ids, *ids),
        logprobs=(*path.logprobs, *(0.0 for _ in ids)) if path.logprobs or not path.ids else (),
        top_logprobs=(),
    )


def without_end(path: Candidate, decode: Decode, encode: Encode) -> Candidate:
    """A path without the end token or the stop string that ended it.

    A token that holds the stop string and text before it is replaced by tokens of that text.
    """
    if not path.ended:
        return path
    stop_string, count, rest = path.stop_string, len(path.ids) - 1, ""
    text = decode(path.ids)
    if stop_string is not None and stop_string in text:
        before = text[: text.rindex(stop_string)]
        while count and len(decode(path.ids[:count])) > len(before):
            count -= 1
        rest = before[len(decode(path.ids[:count])) :]
    cut = replace(
        path,
        ids=path.ids[:count],
        text="",
        logprob=float(sum(path.logprobs[:count])),
        ended=False,
        stop_string=None,
        logprobs=path.logprobs[:count],
        given=path.given[:count],
    )
    return put(cut, tuple(encode(rest)) if rest else ())
