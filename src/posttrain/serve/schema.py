"""The fields of a request. An unknown field, or a value of the wrong type, is refused by name.

Fields of OpenAI's protocol that would change the answer and are not supported are refused. Some of
them are accepted at the value at which they do nothing, because clients send it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from posttrain.errors import MissingDependency

try:
    from pydantic import (
        AfterValidator,
        BaseModel,
        BeforeValidator,
        ConfigDict,
        Field,
        model_validator,
    )
except ImportError as error:
    raise MissingDependency("pydantic", "serve") from error

MAX_STOPS = 16
MAX_STOP_CHARACTERS = 256
MAX_TOP = 20
"""Most alternatives per token."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


def _stops(value: Any) -> Any:
    if value is None:
        return []
    return [value] if isinstance(value, str) else value


def _prompts(value: Any) -> Any:
    """A prompt in any of its four forms as a list of texts and lists of ids."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value and all(type(item) is int for item in value):
        return [value]
    return value


def _json_object(text: str) -> str:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ValueError("must be a JSON object as text")
    return text


StopText = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]
Stops = Annotated[list[StopText], BeforeValidator(_stops), Field(max_length=MAX_STOPS)]
Ids = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
Prompts = Annotated[list[str | Ids], BeforeValidator(_prompts), Field(min_length=1)]


class StreamOptions(_Strict):
    """include_usage: a last event with the token counts."""

    include_usage: bool = False


class SearchRequest(BaseModel):
    """The `search` field: a strategy, its own settings, and what follows.

    max_tokens: budget of sampled tokens of the whole search.
    extractor: how the answer of a text is read: last_number, hash (behind ####), boxed, tag
    (<answer>), whole. Without it the server's own setting counts.
    return_candidates: the answer lists what the search sampled.
    """

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)
    name: str
    max_tokens: int | None = Field(default=None, ge=1)
    extractor: Literal["last_number", "hash", "boxed", "tag", "whole"] | None = None
    return_candidates: bool = False

    @property
    def settings(self) -> dict[str, Any]:
        """The strategy's own settings."""
        return dict(self.model_extra or {})


class JsonSchema(_Strict):
    """A JSON schema by which an answer is constrained."""

    name: str = Field(max_length=64)
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(_Strict):
    """How the answer is written."""

    type: Literal["text", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_schema(self) -> ResponseFormat:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("type json_schema and the field json_schema go together")
        return self


class SamplingFields(_Strict):
    """What both routes take."""

    model: str
    n: int = Field(default=1, ge=1)
    seed: int | None = Field(default=None, ge=-(2**63), lt=2**63)
    stop: Stops = []
    stop_token_ids: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=64)] = []
    temperature: float = Field(default=1.0, ge=0, le=100)
    top_p: float = Field(default=1.0, gt=0, le=1)
    top_k: int = Field(default=0, ge=0, lt=2**31)
    min_p: float = Field(default=0.0, ge=0, lt=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    # Accepted at the value at which they do nothing.
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] = 0.0
    presence_penalty: Annotated[float, Field(ge=0, le=0)] = 0.0
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _is_text(cls, value: Any) -> Any:
        """JSON may escape half a character, which no tokenizer can read."""
        if not isinstance(value, dict):
            return value
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = f"{ord(error.object[error.start]):04x}"
            raise ValueError(f"a text holds half a character (\\u{half}), a surrogate") from None
        return value

    @model_validator(mode="after")
    def _options_of_streams(self) -> SamplingFields:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options: only with stream: true")
        return self


class TextPart(_Strict):
    """A part of a message's content; only text is supported."""

    type: Literal["text"]
    text: str


class FunctionCall(_Strict):
    """arguments: a JSON object as text."""

    name: str
    arguments: Annotated[str, AfterValidator(_json_object)]


class ToolCallFields(_Strict):
    """A call that an earlier answer made."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class MessageFields(_Strict):
    """One message. The template decides what it reads of the optional fields."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    type: Literal["text"] | None = None  # lm-eval sends it; it says what the content is anyway
    name: str | None = None
    tool_calls: list[ToolCallFields] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None

    @model_validator(mode="after")
    def _fits_its_role(self) -> MessageFields:
        if self.content is None and not self.tool_calls:
            raise ValueError("content: a message needs content, or tool_calls of an assistant")
        if self.role != "assistant" and (self.tool_calls or self.reasoning_content is not None):
            raise ValueError("tool_calls and reasoning_content: only of an assistant's message")
        if self.role != "tool" and (self.tool_call_id is not None or self.name is not None):
            raise ValueError("tool_call_id and name: only of a tool's message")
        return self

    def message(self) -> dict[str, Any]:
        """The message as chat templates read it: text content, arguments as objects."""
        content = self.content
        if isinstance(content, list):
            content = "".join(part.text for part in content)
        message: dict[str, Any] = {"role": self.role, "content": content or ""}
        for key in ("name", "tool_call_id", "reasoning_content"):
            if getattr(self, key) is not None:
                message[key] = getattr(self, key)
        if self.tool_calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {
                        "name": call.function.name,
                        "arguments": json.loads(call.function.arguments),
                    },
                }
                for call in self.tool_calls
            ]
        return message


class FunctionFields(_Strict):
    """A function that the model may call. parameters: a JSON schema of its arguments."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None


class ToolFields(_Strict):
    """A tool that the model may call."""

    type: Literal["function"]
    function: FunctionFields


class ChatRequest(SamplingFields):
    """POST /v1/chat/completions."""

    messages: Annotated[list[MessageFields], Field(min_length=1)]
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP)
    tools: list[ToolFields] = []
    tool_choice: Literal["auto", "none"] | None = None
    search: SearchRequest | None = None

    @model_validator(mode="after")
    def _agree(self) -> ChatRequest:
        both = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(both) > 1:
            raise ValueError(
                f"max_tokens is {self.max_tokens} and max_completion_tokens "
                f"{self.max_completion_tokens}; give one"
            )
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs: only with logprobs: true")
        if self.tool_choice is not None and not self.tools:
            raise ValueError("tool_choice: only with tools")
        return self

    @property
    def limit(self) -> int | None:
        """Most new tokens, or None where the request names no limit."""
        return self.max_completion_tokens or self.max_tokens


class CompletionRequest(SamplingFields):
    """POST /v1/completions. prompt: a text, its token ids, or several of either."""

    prompt: Prompts
    max_tokens: int = Field(default=16, ge=0)
    logprobs: int | None = Field(default=None, ge=0, le=MAX_TOP)
    echo: bool = False
    return_token_ids: bool = False
    best_of: Annotated[int, Field(ge=1, le=1)] = 1
    suffix: Literal[""] | None = None
    search: SearchRequest | None = None

    @model_validator(mode="after")
    def _agree(self) -> CompletionRequest:
        if self.max_tokens == 0 and not self.echo:
            raise ValueError("max_tokens: 0 only with echo: true, which returns the prompt")
        if self.echo and self.stream:
            raise ValueError("echo: not with stream: true")
        return self


_UNION_TAGS = {"body", "str", "int", "float", "bool"}


def field_error(errors: Sequence[Any]) -> tuple[str | None, str]:
    """The field of pydantic's errors, as `messages.0.role`, and what is wrong with it in words.

    Of the errors of the first field the deepest counts: of a union it is the branch that fits
    best. The names of branches, which pydantic puts into the path, are left out.
    """
    paths = [_path(error["loc"]) for error in errors]
    top = paths[0][:1]
    deepest = max(
        (i for i, path in enumerate(paths) if path[:1] == top), key=lambda i: len(paths[i])
    )
    error, name = errors[deepest], ".".join(paths[deepest]) or None
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        return name, f"{name}: this server has no such field"
    head = message.partition(":")[0].split(" ")[0]
    if name is None or (error["type"] == "value_error" and ":" in message):
        # A check of several fields names them first.
        own = head if head.isidentifier() and error["type"] == "value_error" else None
        return ".".join([*paths[deepest], *([own] if own else [])]) or None, message
    return name, f"{name}: {message}"


def _path(location: Sequence[Any]) -> list[str]:
    names = [str(part) for part in location]
    return [n for n in names if n not in _UNION_TAGS and (n.isidentifier() or n.isdigit())]
