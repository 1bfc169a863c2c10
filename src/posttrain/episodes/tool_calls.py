"""Tool calls in what a model writes.

A tokenizer with a response template says itself how its model writes calls. For all others there
are the forms in use: Hermes and Qwen, Qwen Coder, Llama, Mistral. Which one a model uses is read
from its chat template. A call that cannot be read is data: `Completion.errors` says why.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from posttrain.errors import ConfigError, nearest, shown
from posttrain.types import Message, ToolCall


@dataclass(slots=True)
class Completion:
    """What a model wrote, taken apart.

    Attributes:
        content: the text without thoughts and calls.
        thought: the text in front of "</think>"; None where there is none.
        calls: in the order of writing, not called yet.
        errors: why a call could not be read.
        written: the whole text.
    """

    content: str
    thought: str | None = None
    calls: list[ToolCall] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    written: str = ""

    def message(self, ids: Sequence[str] = (), *, with_thought: bool = True) -> Message:
        """The assistant's message, as chat templates read it.

        Args:
            ids: of the calls, where the template wants them.
            with_thought: the thought is a field of its own; otherwise it stays in the content.
        """
        if self.errors or not (self.calls or (self.thought and with_thought)):
            return {"role": "assistant", "content": self.written}
        message: Message = {"role": "assistant", "content": self.content}
        if self.thought is not None and with_thought:
            message["reasoning_content"] = self.thought
        elif self.thought is not None:
            message["content"] = f"<think>\n{self.thought}\n</think>\n\n{self.content}"
        if self.calls:
            message["tool_calls"] = [
                {
                    "type": "function",
                    **({"id": ids[place]} if place < len(ids) else {}),
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for place, call in enumerate(self.calls)
            ]
        return message


class Parser(Protocol):
    """Takes a completion apart."""

    def __call__(self, text: str, *, prefix: str = "") -> Completion:
        """text: what was sampled, special tokens included, without the token that ended it.
        prefix: the prompt, which may open a thought.
        """
        ...


def parser_for(tokenizer: Any, name: str = "auto", tools: Sequence[Any] = ()) -> Parser:
    """The parser of a tokenizer's model.

    Args:
        name: "auto" reads it from the tokenizer; otherwise one of `FORMS`, or "response_template".
        tools: schemas of the tools, by which a response template reads their arguments.

    Raises:
        ConfigError: there is no form of that name, or the tokenizer has no response template.
    """
    has_response_template = getattr(tokenizer, "response_template", None) is not None
    if name == "auto":
        name = "response_template" if has_response_template else form_of(template_text(tokenizer))
    if name == "response_template":
        if not has_response_template:
            raise ConfigError(
                "parser: the tokenizer has no response_template; choose one of "
                f"{', '.join(FORMS)}, or add a response_template to the tokenizer"
            )
        return _ResponseTemplate(tokenizer, list(tools))
    if name not in FORMS:
        raise ConfigError(f"parser: unknown form {name!r}: {nearest(name, [*FORMS, 'auto'])}")
    return _Form(FORMS[name])


def form_of(template: str) -> str:
    """The form of tool calls that a chat template writes; "hermes" where it writes none."""
    marks = {
        "[TOOL_CALLS]": "mistral",
        "<function=": "qwen_coder",
        "<tool_call>": "hermes",
        "<|python_tag|>": "llama",
    }
    return next((form for mark, form in marks.items() if mark in template), "hermes")


def template_text(tokenizer: Any) -> str:
    """The text of all of a tokenizer's chat templates."""
    template = getattr(tokenizer, "chat_template", None) or ""
    return template if isinstance(template, str) else "\n".join(template.values())


def split_thought(text: str, *, prefix: str = "") -> tuple[str | None, str]:
    """(thought, rest) of a text, at "</think>". A thought that does not end is all there is."""
    before, end, after = text.partition("</think>")
    opened = prefix.rstrip().endswith("<think>") or before.lstrip().startswith("<think>")
    if not opened and not end:
        return None, text
    return before.replace("<think>", "", 1).strip("\n"), after.lstrip("\n")


class _Form:
    """The thought first, then the calls behind it."""

    def __init__(self, read: Callable[[str], Completion]) -> None:
        self._read = read

    def __call__(self, text: str, *, prefix: str = "") -> Completion:
        thought, rest = split_thought(text, prefix=prefix)
        completion = self._read(rest)
        completion.thought = thought or None
        completion.written = text
        return completion


class _ResponseTemplate:
    """What the tokenizer's own response template makes of a text."""

    def __init__(self, tokenizer: Any, tools: list[Any]) -> None:
        self._tokenizer, self._tools = tokenizer, tools

    def __call__(self, text: str, *, prefix: str = "") -> Completion:
        try:
            message = self._tokenizer.parse_response(text, prefix=prefix, tools=self._tools or None)
        except Exception as error:  # whatever its parsers and patterns raise
            return Completion(text, errors=[_line(error)], written=text)
        thought = next(
            (str(message[k]) for k in ("reasoning_content", "thinking") if message.get(k)), None
        )
        content = message.get("content")
        completion = Completion(content if isinstance(content, str) else "", thought, written=text)
        for call in message.get("tool_calls") or []:
            _add(completion, call.get("function", call) if isinstance(call, dict) else call)
        return completion


# ---- the forms


_HERMES = re.compile(r"<tool_call>(.*?)(</tool_call>|(?=<tool_call>)|\Z)", re.DOTALL)


def _hermes(text: str) -> Completion:
    r"""<tool_call>\n{"name": "f", "arguments": {...}}\n</tool_call>, any number of them."""
    completion = Completion(_HERMES.sub("", text).strip())
    for match in _HERMES.finditer(text):
        if not match[2]:
            completion.errors.append("a <tool_call> has no </tool_call>")
            continue
        _add_json(completion, match[1])
    return completion


_FUNCTION = re.compile(r"\s*<function=([^>\n]+)>(.*?)</function>\s*", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>", re.DOTALL)


def _qwen_coder(text: str) -> Completion:
    """<tool_call><function=f><parameter=x>value</parameter></function></tool_call>.

    Values are read as JSON where they are JSON, and are text otherwise.
    """
    completion = Completion(_HERMES.sub("", text).strip())
    for match in _HERMES.finditer(text):
        function = _FUNCTION.fullmatch(match[1])
        if function is None or not match[2]:
            completion.errors.append(f"a call without <function=...>: {shown(match[1].strip())}")
            continue
        arguments = {key.strip(): _loose(value) for key, value in _PARAMETER.findall(function[2])}
        completion.calls.append(ToolCall(function[1].strip(), arguments))
    return completion


def _llama(text: str) -> Completion:
    """{"name": "f", "parameters": {...}}, alone or behind <|python_tag|>, several with ";" between.

    A text that begins otherwise calls nothing.
    """
    before, tag, after = text.partition("<|python_tag|>")
    body = (after if tag else text).strip()
    if not tag and not re.match(r'\{\s*"(name|type|function)"\s*:', body):
        return Completion(text.strip())
    completion = Completion(before.strip() if tag else "")
    if built_in := _built_in(body):
        completion.calls.append(built_in)
        return completion
    place = 0
    while place < len(body):
        try:
            value, place = _DECODER.raw_decode(body, place)
        except (ValueError, RecursionError) as error:
            completion.errors.append(f"{_line(error)} in {shown(body)}")
            break
        _add(completion, value)
        while place < len(body) and (body[place].isspace() or body[place] in ";,"):
            place += 1
    return completion


def _built_in(body: str) -> ToolCall | None:
    """Llama's calls of its built-in tools: brave_search.call(query="...")."""
    match = re.fullmatch(r"(\w+)\.call\((.*)\)", body, re.DOTALL)
    if match is None:
        return None
    try:
        call = ast.parse(f"f({match[2]})", mode="eval").body
        assert isinstance(call, ast.Call)
        arguments = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError, AssertionError, RecursionError, MemoryError):
        return None
    return ToolCall(match[1], arguments)


def _mistral(text: str) -> Completion:
    """[TOOL_CALLS][{"name": "f", "arguments": {...}}], or [TOOL_CALLS]f[ARGS]{...} for each."""
    before, *parts = text.split("[TOOL_CALLS]")
    completion = Completion(before.strip())
    for part in parts:
        name, arguments_mark, arguments = part.partition("[ARGS]")
        if not arguments_mark and (match := re.match(r"\s*([\w.-]+)\s*(?=\{)", part)):
            name, arguments_mark, arguments = match[1], "[ARGS]", part[match.end() :]
        if not arguments_mark:
            _add_json(completion, part)
            continue
        name = name.partition("[CALL_ID]")[0].strip()
        _add_json(completion, arguments, name=name)
    return completion


def _no_calls(text: str) -> Completion:
    """No calls: whatever is written is text."""
    return Completion(text.strip())


FORMS: dict[str, Callable[[str], Completion]] = {
    "hermes": _hermes,
    "qwen_coder": _qwen_coder,
    "llama": _llama,
    "mistral": _mistral,
    "none": _no_calls,
}
"""Form of tool calls -> its reader of a text without a thought."""

_DECODER = json.JSONDecoder(strict=False)  # models write line breaks in strings as they are


def _loose(text: str) -> Any:
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError):
        return text


def _add_json(completion: Completion, text: str, *, name: str | None = None) -> None:
    """Add the calls of a JSON text. name: of the call whose arguments the text is."""
    try:
        value = _DECODER.decode(text.strip())
    except (ValueError, RecursionError) as error:
        completion.errors.append(f"{_line(error)} in {shown(text.strip())}")
        return
    if name is not None:
        value = {"name": name, "arguments": value}
    for call in value if isinstance(value, list) else [value]:
        _add(completion, call)


def _add(completion: Completion, value: Any) -> None:
    """Add a call that is {"name": ..., "arguments" or "parameters": {...}}."""
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not value["name"]:
        completion.errors.append(f"a call has no name: {shown(value)}")
        return
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):  # JSON in JSON, as some servers send it
        arguments = _loose(arguments) if arguments.strip() else {}
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        completion.errors.append(
            f"the arguments of {value['name']!r} are no object: {shown(arguments)}"
        )
        return
    completion.calls.append(ToolCall(value["name"], arguments))


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
