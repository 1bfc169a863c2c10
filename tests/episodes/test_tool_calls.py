"""Tool calls as models write them, and as they get them wrong."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from posttrain.episodes.tool_calls import FORMS, form_of, parser_for, split_thought
from posttrain.errors import ConfigError

PARIS = ("get_weather", {"city": "Paris", "days": 2})
CALL = '{"name": "get_weather", "arguments": {"city": "Paris", "days": 2}}'
LLAMA = '{"name": "get_weather", "parameters": {"city": "Paris", "days": 2}}'

# form, text, content, calls
WRITTEN: list[tuple[str, str, str, list[tuple[str, dict[str, Any]]]]] = [
    ("hermes", f"<tool_call>\n{CALL}\n</tool_call>", "", [PARIS]),
    ("hermes", f"I look.\n<tool_call>\n{CALL}\n</tool_call>", "I look.", [PARIS]),
    (
        "hermes",
        f'<tool_call>\n{CALL}\n</tool_call>\n<tool_call>\n{{"name": "now", "arguments": {{}}}}\n'
        "</tool_call>",
        "",
        [PARIS, ("now", {})],
    ),
    ("hermes", '<tool_call>{"name": "now"}</tool_call>', "", [("now", {})]),
    (
        "hermes",
        '<tool_call>{"name": "say", "arguments": "{\\"text\\": \\"a\\"}"}</tool_call>',
        "",
        [("say", {"text": "a"})],
    ),
    (
        "hermes",
        '<tool_call>\n{"name": "run", "arguments": {"code": "a = 1\nprint(a)"}}\n</tool_call>',
        "",
        [("run", {"code": "a = 1\nprint(a)"})],
    ),
    ("hermes", "It is 21 degrees.", "It is 21 degrees.", []),
    (
        "qwen_coder",
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n"
        "<parameter=days>\n2\n</parameter>\n</function>\n</tool_call>",
        "",
        [PARIS],
    ),
    (
        "qwen_coder",
        "<tool_call>\n<function=run>\n<parameter=code>\na = 1\nprint(a)\n</parameter>\n"
        "</function>\n</tool_call>",
        "",
        [("run", {"code": "a = 1\nprint(a)"})],
    ),
    ("llama", LLAMA, "", [PARIS]),
    ("llama", f"<|python_tag|>{LLAMA}", "", [PARIS]),
    (
        "llama",
        f'<|python_tag|>{LLAMA}; {{"name": "now", "parameters": {{}}}}',
        "",
        [PARIS, ("now", {})],
    ),
    (
        "llama",
        '{"type": "function", "name": "now", "parameters": {}}',
        "",
        [("now", {})],
    ),
    (
        "llama",
        '<|python_tag|>brave_search.call(query="weather in Paris")',
        "",
        [("brave_search", {"query": "weather in Paris"})],
    ),
    ("llama", "The weather is fine.", "The weather is fine.", []),
    ("llama", '{"temperature": 21}', '{"temperature": 21}', []),
    ("mistral", f"[TOOL_CALLS][{CALL}]", "", [PARIS]),
    ("mistral", f"[TOOL_CALLS] [{CALL[:-1]}, " + '"id": "D681PevKs"}]', "", [PARIS]),
    (
        "mistral",
        'I look.[TOOL_CALLS]get_weather[ARGS]{"city": "Paris", "days": 2}[TOOL_CALLS]now[ARGS]{}',
        "I look.",
        [PARIS, ("now", {})],
    ),
    (
        "mistral",
        '[TOOL_CALLS]get_weather[CALL_ID]D681PevKs[ARGS]{"city": "Paris", "days": 2}',
        "",
        [PARIS],
    ),
    ("mistral", '[TOOL_CALLS]get_weather{"city": "Paris", "days": 2}', "", [PARIS]),
    ("mistral", "Fine.", "Fine.", []),
    ("none", f"<tool_call>{CALL}</tool_call>", f"<tool_call>{CALL}</tool_call>", []),
]


@pytest.mark.parametrize(("form", "text", "content", "calls"), WRITTEN)
def test_calls(form: str, text: str, content: str, calls: list[Any]) -> None:
    completion = parser_for(None, form)(text)
    assert completion.errors == []
    assert completion.content == content
    assert [(c.name, c.arguments) for c in completion.calls] == calls
    assert completion.written == text
    thinking = parser_for(None, form)(f"<think>\nWhat <tool_call> is it?\n</think>\n\n{text}")
    assert [(c.name, c.arguments) for c in thinking.calls] == calls
    assert thinking.thought == "What <tool_call> is it?" and thinking.content == content


MALFORMED = [
    ("hermes", '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Par'),
    ("hermes", '<tool_call>\n{"name": "get_weather", "arguments": {"city": }}\n</tool_call>'),
    ("hermes", '<tool_call>{"arguments": {}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "f", "arguments": [1]}</tool_call>'),
    ("hermes", "<tool_call></tool_call>"),
    ("hermes", '<tool_call>"f"</tool_call>'),
    ("hermes", "<tool_call>" + "[" * 100_000 + "</tool_call>"),
    ("qwen_coder", "<tool_call>\n<function=f>\n<parameter=x>\n1"),
    ("qwen_coder", f"<tool_call>{CALL}</tool_call>"),
    ("llama", '{"name": "get_weather", "parameters": {"city": "Par'),
    ("llama", "<|python_tag|>print(1)"),
    ("llama", "<|python_tag|>search.call(query=open('x'))"),
    ("mistral", '[TOOL_CALLS][{"name": "get_weather", "argu'),
    ("mistral", "[TOOL_CALLS]get_weather[ARGS]{"),
    ("mistral", "[TOOL_CALLS]"),
]


@pytest.mark.parametrize(("form", "text"), MALFORMED)
def test_a_malformed_call_is_data(form: str, text: str) -> None:
    completion = parser_for(None, form)(text)
    assert len(completion.errors) == 1 and not completion.calls
    assert len(completion.errors[0]) < 400
    assert completion.message() == {"role": "assistant", "content": text}


def test_one_bad_call_beside_a_good_one() -> None:
    completion = parser_for(None, "hermes")(
        f"<tool_call>{CALL}<tool_call>{CALL}</tool_call><tool_call>x</tool_call>"
    )
    assert len(completion.calls) == 1 and len(completion.errors) == 2


@pytest.mark.parametrize(
    ("text", "prefix", "thought", "rest"),
    [
        ("<think>\na\n</think>\n\nb", "", "a", "b"),
        ("a\n</think>\n\nb", "<|im_start|>assistant\n<think>\n", "a", "b"),
        ("a</think>b", "", "a", "b"),
        ("<think>\na, and", "", "a, and", ""),
        ("a, and", "<think>\n", "a, and", ""),
        ("<think>\n\n</think>\n\nb", "", "", "b"),
        ("b", "<think>\n\n</think>\n\n", None, "b"),
    ],
)
def test_thoughts(text: str, prefix: str, thought: str | None, rest: str) -> None:
    assert split_thought(text, prefix=prefix) == (thought, rest)


def test_messages_for_the_template() -> None:
    completion = parser_for(None, "hermes")(
        f"<think>\nhm\n</think>\nWait.<tool_call>{CALL}</tool_call>"
    )
    message = completion.message(["call00001"])
    assert message == {
        "role": "assistant",
        "content": "Wait.",
        "reasoning_content": "hm",
        "tool_calls": [
            {
                "type": "function",
                "id": "call00001",
                "function": {"name": "get_weather", "arguments": {"city": "Paris", "days": 2}},
            }
        ],
    }
    plain = parser_for(None, "hermes")(" a\n")
    assert plain.message() == {"role": "assistant", "content": " a\n"}


@pytest.mark.parametrize(
    ("template", "form"),
    [
        ("{{ '[TOOL_CALLS]' }}", "mistral"),
        ("<tool_call> {'name'} </tool_call>", "hermes"),
        ("<tool_call> <function=a>", "qwen_coder"),
        ("{{ '<|python_tag|>' }}", "llama"),
        ("{{ messages }}", "hermes"),
    ],
)
def test_the_form_is_read_from_the_template(template: str, form: str) -> None:
    assert form_of(template) == form
    tokenizer = SimpleNamespace(chat_template={"default": "", "tool_use": template})
    text = next(text for f, text, _, calls in WRITTEN if f == form and calls)
    assert parser_for(tokenizer)(text).calls


def test_a_response_template_of_the_tokenizer(tiny_tokenizer: Any) -> None:
    import copy

    tokenizer = copy.copy(tiny_tokenizer)
    tokenizer.response_template = {
        "start_anchor": "<|assistant|>\n",
        "defaults": {"role": "assistant"},
        "fields": {
            "reasoning_content": {"open": "<think>\n", "close": "\n</think>\n\n"},
            "tool_calls": {
                "open": "<tool_call>\n",
                "close": "\n</tool_call>",
                "repeats": True,
                "content": "json",
                "transform": {"type": "function", "function": "{content}"},
            },
            "content": {},
        },
    }
    parse = parser_for(tokenizer)
    prompt = "<|user|>\nWeather?<|end|>\n<|assistant|>\n<think>\n"
    completion = parse(f"hm\n</think>\n\nI look. <tool_call>\n{CALL}\n</tool_call>", prefix=prompt)
    assert (completion.thought, completion.content) == ("hm", "I look.")
    assert [(c.name, c.arguments) for c in completion.calls] == [PARIS]
    broken = parse("<tool_call>\n{\n</tool_call>", prefix=prompt.removesuffix("<think>\n"))
    assert len(broken.errors) == 1 and not broken.calls


def test_unknown_forms() -> None:
    with pytest.raises(ConfigError, match="hermes"):
        parser_for(None, "hermez")
    with pytest.raises(ConfigError, match="response_template"):
        parser_for(SimpleNamespace(chat_template=None), "response_template")
    assert set(FORMS) == {"hermes", "qwen_coder", "llama", "mistral", "none"}
