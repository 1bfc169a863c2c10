"""POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any

from posttrain.serve.answer import Answer, SampledAnswer, finish_reason
from posttrain.serve.logprobs import chat_logprobs, check_alternatives, sampled_tokens
from posttrain.serve.refusal import unsupported
from posttrain.serve.schema import ChatRequest
from posttrain.serve.search import Found, SearchAnswer, adapter_of, search_plan
from posttrain.serve.service import Service, seed_of
from posttrain.serve.tool_text import ToolText, call_fields
from posttrain.types import Request, ToolCall

_PREFIX_TOKENS = 16
"""Last tokens of a prompt, among which a template may open a thought."""


async def chat_answer(service: Service, fields: ChatRequest) -> Answer:
    """The answer to a chat request, checked before anything is sampled.

    Raises:
        Refusal: names the field.
    """
    plan = search_plan(service, fields.model, fields.search, fields)
    adapter = adapter_of(service, fields.model)
    service.check(fields)
    check_alternatives(service, fields.top_logprobs or 0, "top_logprobs")
    tools = [tool.model_dump(exclude_none=True) for tool in fields.tools]
    if fields.tool_choice == "none":
        tools = []
    form = fields.response_format
    if tools and form is not None and form.type != "text":
        # A call is not of the form, and the form would let none be written.
        raise unsupported("response_format", "response_format: not with tools; leave out one")
    messages = [message.message() for message in fields.messages]
    prompt = await service.prompt_of_messages(messages, tools, adapter)
    name = "max_tokens" if fields.max_completion_tokens is None else "max_completion_tokens"
    room = service.room(prompt, fields.limit, name)
    constraint = await service.forms.constraint(form)
    request = service.request(prompt, fields, room, seed_of(fields), constraint, adapter)
    if plan is not None:
        if tools or fields.logprobs:
            field = "tools" if tools else "logprobs"
            raise unsupported(field, f"{field}: not with a search")
        return ChatSearch(service, fields.model, "chatcmpl", request, plan)
    return ChatAnswer(service, fields, request, tools)


class ChatAnswer(SampledAnswer):
    """Messages as they are sampled.

    Args:
        tools: schemas of the tools that the prompt shows; where there are any, calls are read.
    """

    kind = "chat.completion"
    part_kind = "chat.completion.chunk"

    def __init__(
        self, service: Service, fields: ChatRequest, request: Request, tools: list[dict[str, Any]]
    ) -> None:
        super().__init__(service, fields.model, "chatcmpl", [request])
        self.num_top = (fields.top_logprobs or 0) if fields.logprobs else None
        self._reader = service.call_reader(tools, request.adapter) if tools else None
        if self._reader is not None:
            self.kept_ids = self._reader.kept_ids

    async def whole(self) -> dict[str, Any]:
        """The answer as one object: a choice for each sample."""
        (samples,) = await self.samples()
        logprobs: list[dict[str, Any] | None] = [None for _ in samples]
        if self.num_top is not None:
            request = self.requests[0]
            scored = await sampled_tokens(self.service, request, samples, self.num_top)
            logprobs = [chat_logprobs(self.service, tokens) for tokens in scored]
        choices = []
        for index, sample in enumerate(samples):
            message, reason = self._message(self.text(0, sample), finish_reason(sample))
            choices.append(
                {
                    "index": index,
                    "message": message,
                    "logprobs": logprobs[index],
                    "finish_reason": reason,
                }
            )
        return self.body(choices)

    async def parts(self) -> AsyncGenerator[dict[str, Any] | None]:
        """The answer as chunks, while it is written."""
        for index in range(self.requests[0].n):
            yield self._delta(index, {"role": "assistant", "content": ""})
        texts = [self._tool_text() for _ in range(self.requests[0].n)]
        async for index, text, reason, tokens in self.deltas():
            tool_text = texts[index]
            logprobs = chat_logprobs(self.service, tokens) if tokens else None
            calls: list[ToolCall] = []
            if tool_text is not None:
                text = tool_text.add(text)
                if reason is not None:
                    rest, calls = tool_text.end()
                    text += rest
            if text or logprobs is not None:
                yield self._delta(index, {"content": text}, logprobs=logprobs)
            elif reason is None:
                yield None
            if calls:
                fields = call_fields(calls)
                parts = [{"index": number, **call} for number, call in enumerate(fields)]
                yield self._delta(index, {"tool_calls": parts})
            if reason is not None:
                yield self._delta(index, {}, _reason(reason, calls))

    def _message(self, text: str, reason: str) -> tuple[dict[str, Any], str]:
        """The message of a text, with its tool calls where tools were offered."""
        tool_text = self._tool_text()
        calls: list[ToolCall] = []
        if tool_text is not None:
            start = tool_text.add(text)
            rest, calls = tool_text.end()
            text = start + rest
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if calls:
            message |= {"content": text or None, "tool_calls": call_fields(calls)}
        return message, _reason(reason, calls)

    def _tool_text(self) -> ToolText | None:
        if self._reader is None:
            return None
        last_ids = list(self.requests[0].prompt_ids[-_PREFIX_TOKENS:])
        decode = self.service.model.tokenizer.decode
        return ToolText(self._reader, str(decode(last_ids, skip_special_tokens=False)))

    def _delta(
        self,
        index: int,
        delta: dict[str, Any],
        reason: str | None = None,
        logprobs: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return self.part([choice])


def _reason(reason: str, calls: Sequence[ToolCall]) -> str:
    return "tool_calls" if calls and reason == "stop" else reason


class ChatSearch(SearchAnswer):
    """The message that a search chose."""

    kind = "chat.completion"
    part_kind = "chat.completion.chunk"

    def choice(self, found: Found) -> dict[str, Any]:
        """The choice of a whole answer."""
        message = {"role": "assistant", "content": found.text, "refusal": None}
        return {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": found.finish_reason,
        }

    def part_choices(self, found: Found) -> list[dict[str, Any]]:
        """The choices of the parts of a stream."""
        head = {"index": 0, "logprobs": None}
        delta = {"role": "assistant", "content": found.text}
        return [
            {**head, "delta": delta, "finish_reason": None},
            {**head, "delta": {}, "finish_reason": found.finish_reason},
        ]
