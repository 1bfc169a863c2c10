"""A conversation on token ids: what was sampled is never tokenised again.

The context of the next turn is found from the chat template's own words. The conversation is
rendered with the new messages:

* Where the rendering writes all that was said before as it stands, what is behind it (the end of
  the turn, the new messages, the beginning of the next turn) is tokenised and appended to the ids
  that are held: the next turn continues the sequence.
* Where the template rewrites the history, such as by dropping old thoughts, the next turn has a
  context of its own: the rendering is tokenised, except what the model wrote and the template
  leaves, which has its sampled ids. Such a turn begins a branch.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from posttrain.data.templates import render
from posttrain.episodes.tool_calls import Completion, parser_for, template_text
from posttrain.errors import DataError, TemplateError
from posttrain.types import Message, Sample

_PROBE = "posttrain0probe"
"""A word that no template writes; it stands for what the model writes."""

_THOUGHT_MARKS = ("reasoning", "thinking", "</think>")
_OPENED_THOUGHT = re.compile(r"<think>\s*(</think>\s*)?\Z")


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a context. text: as the template writes it. ids: as the context holds it.

    content_start: of a sampled turn, the place in `ids` from which a template that drops thoughts
    leaves the turn; None where it has no thought, and in what was not sampled.
    """

    text: str
    ids: tuple[int, ...]
    is_sampled: bool = False
    content_start: int | None = None


class Chat:
    """The conversations of one tokenizer.

    Args:
        tools: schemas of the tools that the template writes.
        parser: form of tool calls, see `tool_calls.parser_for`.

    Raises:
        TemplateError: there is no chat template, or it writes no tools.
        ConfigError: there is no such parser.
    """

    def __init__(self, tokenizer: Any, *, tools: Sequence[Any] = (), parser: str = "auto") -> None:
        self.tokenizer = tokenizer
        self.tools = list(tools) or None
        self.parse = parser_for(tokenizer, parser, tools)
        if self.tools:
            self._check_tools(self.tools)

    def start(self, messages: Sequence[Message]) -> Conversation:
        """A conversation whose next turn is the model's.

        Raises:
            TemplateError: the template refuses the messages. DataError: it writes nothing for them.
        """
        rendering = self.render(messages, generation=True)
        ids = tuple(self.ids(rendering))
        if not ids:
            raise DataError("the chat template writes nothing for the conversation")
        return Conversation(self, list(messages), [Segment(rendering, ids)])

    def render(self, messages: Sequence[Message], *, generation: bool) -> str:
        """The conversation as the template writes it."""
        return render(self.tokenizer, messages, tools=self.tools, generation=generation)

    def ids(self, text: str, *, inside: bool = False) -> list[int]:
        """Ids of a piece of a rendering. inside: other pieces stand before it."""
        if not text:
            return []
        if not inside or self._anchor is None:
            return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        # Some tokenizers put a space before the first word; behind a special token they do not.
        token, number = self._anchor
        ids = list(self.tokenizer(token + text, add_special_tokens=False)["input_ids"])
        return ids[1:] if ids[:1] == [number] else self.ids(text)

    def text(self, ids: Sequence[int], before: Sequence[int]) -> str:
        """Text of ids behind others, special tokens included."""
        lead = list(before[-1:])
        decode = self.tokenizer.decode
        return str(decode([*lead, *ids])).removeprefix(str(decode(lead)) if lead else "")

    def terminator(self, sample: Sample) -> str:
        """The special token that ended a sample; "" where none did."""
        if sample.finish_reason != "stop" or not sample.ids:
            return ""
        return self._special.get(sample.ids[-1], "")

    @property
    def special_tokens(self) -> Iterable[str]:
        """Texts of all special tokens."""
        return self._special.values()

    @cached_property
    def knows_thoughts(self) -> bool:
        """Whether the template treats thoughts apart from content."""
        template = template_text(self.tokenizer)
        return any(mark in template for mark in _THOUGHT_MARKS)

    @cached_property
    def _special(self) -> dict[int, str]:
        added = getattr(self.tokenizer, "added_tokens_decoder", {})
        special = {i: str(token) for i, token in added.items() if token.special}
        named = zip(self.tokenizer.all_special_ids, self.tokenizer.all_special_tokens, strict=False)
        return {**special, **{i: str(token) for i, token in named}}

    @cached_property
    def _anchor(self) -> tuple[str, int] | None:
        return next(((token, i) for i, token in self._special.items() if token), None)

    def _check_tools(self, tools: list[Any]) -> None:
        user = {"role": "user", "content": "a"}
        if self.render([user], generation=True) == render(self.tokenizer, [user], generation=True):
            raise TemplateError(
                "the chat template does not write tools, so the model would not know them; set "
                "model.chat_template to a template that has a block for tools"
            )
        calls = Completion("b", calls=[]).message()
        calls["tool_calls"] = [
            {
                "type": "function",
                "id": call_id(0),
                "function": {"name": tools[0]["function"]["name"], "arguments": {}},
            }
        ]
        result = tool_message(tools[0]["function"]["name"], _PROBE, call_id(0))
        if _PROBE not in self.render([user, calls, result], generation=True):
            raise TemplateError(
                "the chat template leaves out messages of the role tool, so the model would not "
                "see results; set model.chat_template to a template that writes them"
            )


def call_id(number: int) -> str:
    """Id of a conversation's tool call: nine letters and digits, as Mistral's templates ask."""
    return f"call{number % 100_000:05d}"


def tool_message(name: str, content: str, number: str) -> Message:
    """The message with the result of a call."""
    return {"role": "tool", "name": name, "content": content, "tool_call_id": number}


@dataclass(slots=True)
class Conversation:
    """What has been said, in messages and in token ids.

    Attributes:
        messages: with the assistant's.
        segments: the context of the next turn, in pieces.
        branched: the context does not continue the previous turn's.
    """

    chat: Chat
    messages: list[Message]
    segments: list[Segment]
    branched: bool = False
    _sample: Sample | None = field(default=None, init=False)
    _completion: Completion | None = field(default=None, init=False)
    _num_calls: int = field(default=0, init=False)

    @property
    def context_ids(self) -> tuple[int, ...]:
        """All ids before the next turn."""
        return tuple(i for segment in self.segments for i in segment.ids)

    @property
    def rendered(self) -> str:
        """The context in the template's words."""
        return "".join(segment.text for segment in self.segments)

    def wrote(self, sample: Sample) -> Completion:
        """The model's turn: takes it apart and adds it to the messages."""
        end = self.chat.terminator(sample)
        written = self.chat.text(sample.ids, self.segments[-1].ids).removesuffix(end)
        completion = self.chat.parse(written, prefix=self.rendered)
        ids = [call_id(self._num_calls + place) for place in range(len(completion.calls))]
        self._num_calls += len(ids)
        message = completion.message(ids, with_thought=self.chat.knows_thoughts)
        self._sample, self._completion = sample, completion
        self.messages.append(message)
        return completion

    def say(self, messages: Sequence[Message]) -> None:
        """Messages of the user, of tools or of the system; the next turn is the model's again.

        Raises:
            TemplateError: the template refuses the messages.
        """
        if self._sample is None or self._completion is None:
            raise DataError("the model has written no turn since the last messages; let it write")
        rendering = self.chat.render([*self.messages, *messages], generation=True)
        sampled = self._as_written(rendering) or self._as_rendered(rendering, messages)
        self.branched = sampled is None
        if sampled is None:
            self.segments = self._rebuilt(rendering)
        else:
            self.segments = sampled
            behind = rendering[len(self.rendered) :]
            self.segments.append(Segment(behind, tuple(self.chat.ids(behind, inside=True))))
        self.messages += messages
        self._sample = self._completion = None

    def fork(self) -> Conversation:
        """A conversation of its own that goes on from here."""
        fork = copy.copy(self)
        fork.messages, fork.segments = list(self.messages), list(self.segments)
        return fork

    # ---- the three ways in which a turn becomes history

    def _as_written(self, rendering: str) -> list[Segment] | None:
        """The segments through the turn, where the template writes it letter for letter."""
        assert self._sample is not None
        text = self._written + self.chat.terminator(self._sample)
        if not rendering.startswith(self.rendered + text):
            return None
        return [*self.segments, self._segment(text)]

    def _as_rendered(self, rendering: str, new: Sequence[Message]) -> list[Segment] | None:
        """The segments through the turn, where the template writes all of it in its own way, such
        as with other spaces in JSON; None where it leaves something out.
        """
        assert self._completion is not None and self._sample is not None
        before = self.messages[:-1]
        history = self.chat.render(before, generation=False)
        if not (rendering.startswith(history) and self.rendered.startswith(history)):
            return None
        behind = self._behind_probe(before, new)
        if behind is None or not rendering.endswith(behind):
            return None
        turn = rendering[len(history) : len(rendering) - len(behind)]
        if not _holds(turn, self._completion):
            return None
        # The turn has its end already, where the model wrote one.
        if self.chat.terminator(self._sample):
            ends = [token for token in self.chat.special_tokens if behind.startswith(token)]
            behind = behind[max(map(len, ends), default=0) :]
        text = rendering[: len(rendering) - len(behind)]
        if text.startswith(self.rendered):
            return [*self.segments, self._segment(text[len(self.rendered) :])]
        return [Segment(text, (*self.context_ids, *self._sample.ids))]

    def _behind_probe(self, before: list[Message], new: Sequence[Message]) -> str | None:
        """What the template writes behind the content of the model's last turn."""
        probe = {"role": "assistant", "content": _PROBE}
        try:
            text = self.chat.render([*before, probe, *new], generation=True)
        except TemplateError:  # some refuse results of tools that nobody has called
            return None
        before_probe, found, behind = text.rpartition(_PROBE)
        return behind if found and _PROBE not in before_probe else None

    def _rebuilt(self, rendering: str) -> list[Segment]:
        """A rendering as ids: held ones as long as the held text stands, then new ones, and sampled
        ones for the turns that the template leaves.
        """
        assert self._sample is not None
        text = self._written + self.chat.terminator(self._sample)
        held = [*self.segments, self._segment(text)]
        segments: list[Segment] = []
        place = 0
        while held and rendering.startswith(held[0].text, place):
            place += len(held[0].text)
            segments.append(held.pop(0))
        if segments and not segments[-1].is_sampled and held and held[0].is_sampled:
            # The turn behind it has changed, and with it perhaps what opened it.
            place -= len(segments[-1].text)
            held.insert(0, segments.pop())
        opening = self._turn_opening()
        openings = (opening, _OPENED_THOUGHT.sub("", opening))
        for segment in held:
            for ids in self._remains(segment):
                piece = self.chat.text(ids, segment.ids[: len(segment.ids) - len(ids)])
                span = _find(rendering, piece, place, behind=openings)
                if span is not None:
                    segments += self._tokenised(rendering[place:span], inside=bool(segments))
                    segments.append(Segment(piece, ids, is_sampled=True))
                    place = span + len(piece)
                    break
        return segments + self._tokenised(rendering[place:], inside=bool(segments))

    def _tokenised(self, text: str, *, inside: bool) -> list[Segment]:
        return [Segment(text, tuple(self.chat.ids(text, inside=inside)))] if text else []

    def _remains(self, segment: Segment) -> list[tuple[int, ...]]:
        """What a template may leave of a turn: all of it, or all but its thought."""
        if not segment.is_sampled:
            return []
        whole = [segment.ids]
        if segment.content_start is not None:
            whole.append(segment.ids[segment.content_start :])
        return whole

    def _turn_opening(self) -> str:
        """What the template writes before the model's turn."""
        return self.rendered[len(self.chat.render(self.messages[:-1], generation=False)) :]

    @property
    def _written(self) -> str:
        assert self._completion is not None
        return self._completion.written

    def _segment(self, text: str) -> Segment:
        """The model's turn as a segment that the template writes as `text`."""
        assert self._sample is not None
        return Segment(text, tuple(self._sample.ids), True, self._content_start())

    def _content_start(self) -> int | None:
        """The first id behind the thought, None where there is none or an id crosses its end."""
        assert self._completion is not None and self._sample is not None
        if self._completion.thought is None:
            return None
        ids = self._sample.ids
        rest = self._written.partition("</think>")[2].lstrip("\n")
        wanted = rest + self.chat.terminator(self._sample)
        for start in range(len(ids) - 1, 0, -1):
            text = self.chat.text(ids[start:], ids[:start])
            if text == wanted:
                return start
            if len(text) > len(wanted) + 8:  # a character may be several ids, each decoded alone
                break
        return None


def _holds(turn: str, completion: Completion) -> bool:
    """Whether a rendered turn has everything that the model wrote: thought, content, calls."""
    squeezed = _squeezed(turn)
    if completion.errors:
        return _squeezed(completion.written) in squeezed
    parts = [completion.thought or "", completion.content, *(c.name for c in completion.calls)]
    return all(_squeezed(part) in squeezed for part in parts)


def _squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text)


def _find(text: str, piece: str, start: int, *, behind: tuple[str, ...]) -> int | None:
    """The first place of a piece at or after `start` that stands behind one of others."""
    place = text.find(piece, start) if piece else -1
    while place >= 0:
        if text[:place].endswith(behind):
            return place
        place = text.find(piece, place + 1)
    return None
