"""POST /v1/chat/completions."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

from posttrain.serve.answer import Answer, SampledAnswer, finish_reason
from posttrain.serve.logprobs import chat_logprobs, check_alternatives, sampled_tokens
from posttrain.serve.refusal import unsupported
from posttrain.serve.schema import ChatRequest
from posttrain.serve.search import Found, SearchAnswer, search_plan
from posttrain.serve.service import Service, new_id, seed_of
from posttrain.types import Request


async def chat_answer(service: Service, fields: ChatRequest) -> Answer:
    """The answer to a chat request, checked before anything is sampled.

    Raises:
        Refusal: names the field.
    """
    plan = search_plan(service, fields.model, fields.search, fields)
    service.check(fields)
    if fields.stream and fields.logprobs:
        raise unsupported("logprobs", "logprobs: not with stream: true; leave out one of them")
    check_alternatives(service, fields.top_logprobs or 0, "top_logprobs")
    tools = [tool.model_dump(exclude_none=True) for tool in fields.tools]
    if fields.tool_choice == "none":
        tools = []
    if tools and service.model.tool_calls is None:
        raise unsupported("tools", f"tools: no reader of {service.model.name}'s calls is known")
    messages = [message.message() for message in fields.messages]
    prompt = await service.prompt_of_messages(messages, tools)
    name = "max_tokens" if fields.max_completion_tokens is None else "max_completion_tokens"
    request = service.request(
        prompt, fields, service.room(prompt, fields.limit, name), seed_of(fields)
    )
    if plan is not None:
        if tools or fields.logprobs:
            field = "tools" if tools else "logprobs"
            raise unsupported(field, f"{field}: not with a search")
        return ChatSearch(service, fields.model, "chatcmpl", request, plan)
    return ChatAnswer(service, fields, request, reads_calls=bool(tools))


class ChatAnswer(SampledAnswer):
    """Messages as they are sampled."""

    kind = "chat.completion"
    part_kind = "chat.completion.chunk"

    def __init__(
        self, service: Service, fields: ChatRequest, request: Request, *, reads_calls: bool
    ) -> None:
        super().__init__(service, fields.model, "chatcmpl", [request])
        self._reads_calls = reads_calls
        self._num_top = (fields.top_logprobs or 0) if fields.logprobs else None

    async def whole(self) -> dict[str, Any]:
        (samples,) = await self.samples()
        logprobs: list[dict[str, Any] | None] = [None for _ in samples]
        if self._num_top is not None:
            prompt = self.requests[0].prompt_ids
            scored = await sampled_tokens(self.service, prompt, samples, self._num_top)
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
        for index in range(self.requests[0].n):
            yield self._delta(index, {"role": "assistant", "content": ""})
        written = ["" for _ in range(self.requests[0].n)]
        async for index, text, reason in self.deltas():
            if self._reads_calls:  # a call is only known as one when it is whole
                written[index] += text
                if reason is None:
                    yield None
                    continue
                message, reason = self._message(written[index], reason)
                yield self._delta(index, _call_delta(message))
            elif text:
                yield self._delta(index, {"content": text})
            if reason is not None:
                yield self._delta(index, {}, reason)

    def _message(self, text: str, reason: str) -> tuple[dict[str, Any], str]:
        """The message of a text, with its tool calls where tools were offered."""
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        read = self.service.model.tool_calls
        if not self._reads_calls or read is None:
            return message, reason
        content, calls = read(text)
        if not calls:
            return message, reason
        message["content"] = content or None
        message["tool_calls"] = [
            {
                "id": new_id("call"),
                "type": "function",
                "function": {"name": name, "arguments": json.dumps(arguments)},
            }
            for name, arguments in calls
        ]
        return message, "tool_calls" if reason == "stop" else reason

    def _delta(
        self, index: int, delta: dict[str, Any], reason: str | None = None
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
        return self.part([choice])


def _call_delta(message: dict[str, Any]) -> dict[str, Any]:
    delta = {"content": message["content"]}
    if "tool_calls" in message:
        calls = message["tool_calls"]
        delta["tool_calls"] = [{"index": i, **call} for i, call in enumerate(calls)]
    return delta


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
