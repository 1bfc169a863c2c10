"""Contexts on token ids: continuations keep what was sampled, rewritten histories are branches."""

from __future__ import annotations

from typing import Any

import pytest

from posttrain.episodes.chat import Chat, Conversation
from posttrain.errors import DataError, TemplateError
from posttrain.types import Message, Sample

TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add.",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
    },
}
USER: Message = {"role": "user", "content": "What is 12 + 30?"}
AGAIN: Message = {"role": "user", "content": "And 14 + 28<|im_end|>?"}


def result(content: str = "42") -> Message:
    return {"role": "tool", "name": "add", "content": content, "tool_call_id": "call00000"}


def written(ids: list[int], finish_reason: Any = "stop") -> Sample:
    return Sample(ids, [0.0] * len(ids), [0.0] * len(ids), finish_reason)


class Talk:
    """A conversation whose model writes what it is told, in ids that no tokenizer would give."""

    def __init__(self, templates: Any, style: str, *, tools: bool = True) -> None:
        self.tokenizer = templates.tokenizer(style)
        self.chat = Chat(self.tokenizer, tools=[TOOL] if tools else [])
        self.end = templates.STYLES[style][1]
        self.letters = templates.letters
        self.conversation: Conversation | None = None

    def start(self, *messages: Message) -> Talk:
        self.conversation = self.chat.start(messages)
        return self

    def write(self, text: str, *, end: str | None = None) -> list[int]:
        assert self.conversation is not None
        ids = self.letters(self.tokenizer, text + (self.end if end is None else end))
        self.conversation.wrote(written(ids, "stop" if end != "" else "length"))
        return ids

    def say(self, *messages: Message) -> None:
        assert self.conversation is not None
        self.conversation.say(messages)

    @property
    def ids(self) -> tuple[int, ...]:
        assert self.conversation is not None
        return self.conversation.context_ids

    @property
    def text(self) -> str:
        return str(self.tokenizer.decode(self.ids))

    @property
    def rendering(self) -> str:
        assert self.conversation is not None
        return self.chat.render(self.conversation.messages, generation=True)

    @property
    def branched(self) -> bool:
        assert self.conversation is not None
        return self.conversation.branched


CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 12}}\n</tool_call>'
# style, what the model writes as a call
CALLS = {
    "qwen3": "<think>\nI need to add.\n</think>\n\n" + CALL,
    "qwen3_thinking": "I need to add.\n</think>\n\n" + CALL,
    "llama3": '{"name": "add", "parameters": {"a": 12}}',
    "mistral": '[TOOL_CALLS][{"name": "add", "arguments": {"a": 12}, "id": "call00000"}]',
}


@pytest.mark.parametrize("style", CALLS)
def test_a_tool_loop_continues_its_sequence(templates: Any, style: str) -> None:
    talk = Talk(templates, style).start(USER)
    assert list(talk.ids) == talk.tokenizer(talk.text, add_special_tokens=False)["input_ids"]
    for _ in range(3):
        before, ids = talk.ids, talk.write(CALLS[style])
        talk.say(result())
        assert not talk.branched
        assert talk.ids[: len(before) + len(ids)] == (*before, *ids)
        if style != "mistral":  # numbers its calls, so that this one is not as the model wrote it
            assert talk.text == talk.rendering


@pytest.mark.parametrize("style", CALLS)
def test_other_spaces_in_json_change_nothing(templates: Any, style: str) -> None:
    talk = Talk(templates, style).start(USER)
    text = CALLS[style].replace('": ', '":').replace(", ", ",  ")
    for _ in range(2):
        before, ids = talk.ids, talk.write(text)
        talk.say(result())
        assert not talk.branched
        assert talk.ids[: len(before) + len(ids)] == (*before, *ids)
        # One end of the turn, the sampled one, and then what the template writes.
        end = talk.tokenizer.convert_tokens_to_ids(talk.end)
        assert ids[-1] == end and talk.ids[len(before) + len(ids)] != end
        behind = talk.text[len(talk.tokenizer.decode([*before, *ids])) :]
        assert talk.rendering.endswith(behind) and "42" in behind


def test_a_call_without_a_thought(templates: Any) -> None:
    """Qwen's template adds an empty thought to the last turn alone, which is no rewriting."""
    talk = Talk(templates, "qwen3").start(USER)
    before, ids = talk.ids, talk.write(CALL.replace('": ', '":'))
    talk.say(result())
    assert not talk.branched and talk.ids[: len(before) + len(ids)] == (*before, *ids)


@pytest.mark.parametrize(("style", "thinks"), [("qwen3", True), ("qwen3_thinking", False)])
def test_dropped_thoughts_are_a_branch(templates: Any, style: str, thinks: bool) -> None:
    thought = "<think>\nI need to add 42.\n</think>\n\n" if thinks else "I add 42.\n</think>\n\n"
    talk = Talk(templates, style).start(USER)
    first = talk.ids
    ids = talk.write(thought + "The answer is 42.")
    talk.say(AGAIN)
    assert talk.branched
    assert talk.text == talk.rendering and "need" not in talk.text
    # What the template leaves of the turn has its sampled ids; the prompt has its own.
    kept = talk.letters(talk.tokenizer, "The answer is 42.<|im_end|>")
    assert ids[-len(kept) :] == kept
    opened = first if thinks else first[: -len(talk.chat.ids("<think>\n", inside=True))]
    assert talk.ids[: len(opened) + len(kept)] == (*opened, *kept)

    before = talk.ids
    calls = talk.write(thought + CALL)
    talk.say(result())
    assert not talk.branched and talk.ids[: len(before) + len(calls)] == (*before, *calls)
    talk.write(thought + "It is 42.")
    talk.say(USER)
    assert talk.branched and talk.text == talk.rendering
    for text in ("The answer is 42.<|im_end|>", CALL + "<|im_end|>", "It is 42.<|im_end|>"):
        piece = talk.letters(talk.tokenizer, text)
        assert any(talk.ids[i : i + len(piece)] == tuple(piece) for i in range(len(talk.ids)))


def test_tools_that_move_are_a_branch(templates: Any) -> None:
    talk = Talk(templates, "mistral").start(USER)
    talk.write("It is 42.")
    talk.say({"role": "user", "content": "And 14 + 28?"})
    assert talk.branched and talk.text == talk.rendering


def test_without_thoughts_nothing_is_rewritten(templates: Any) -> None:
    talk = Talk(templates, "qwen3", tools=False).start(USER)
    for _ in range(3):
        before, ids = talk.ids, talk.write("The answer is 42.")
        talk.say(AGAIN)
        assert not talk.branched and talk.ids[: len(before) + len(ids)] == (*before, *ids)
        assert talk.text == talk.rendering


@pytest.mark.parametrize("style", ["gemma", "llama3"])
@pytest.mark.parametrize("text", ["The answer is 42.", "  The answer is 42.\n\n", "ä€𝄞 42"])
def test_trimmed_contents_continue(templates: Any, style: str, text: str) -> None:
    talk = Talk(templates, style, tools=False).start(USER)
    for _ in range(3):
        before, ids = talk.ids, talk.write(text)
        talk.say(AGAIN)
        assert not talk.branched and talk.ids[: len(before) + len(ids)] == (*before, *ids)
    end = "<end_of_turn>\n" if style == "gemma" else "<|eot_id|>"
    assert talk.text.count(end) == talk.rendering.count(end)


@pytest.mark.parametrize("style", ["gemma", "llama3", "qwen3"])
def test_a_turn_that_was_cut_gets_its_end_as_context(templates: Any, style: str) -> None:
    talk = Talk(templates, style, tools=False).start(USER)
    before, ids = talk.ids, talk.write("The answer is", end="")
    talk.say(AGAIN)
    assert not talk.branched
    end = talk.tokenizer.convert_tokens_to_ids(talk.end)
    assert talk.ids[: len(before) + len(ids) + 1] == (*before, *ids, end)
    assert talk.text == talk.rendering


def test_another_end_of_the_turn_is_not_doubled(templates: Any) -> None:
    """Llama ends calls with <|eom_id|>, and the template writes <|eot_id|>."""
    talk = Talk(templates, "llama3").start(USER)
    before, ids = talk.ids, talk.write(CALLS["llama3"], end="<|eom_id|>")
    talk.say(result())
    assert not talk.branched and talk.ids[: len(before) + len(ids)] == (*before, *ids)
    assert talk.text.count("<|eot_id|>") == talk.rendering.count("<|eot_id|>") - 1


def test_thoughts_in_a_template_that_knows_none(templates: Any) -> None:
    talk = Talk(templates, "gemma", tools=False).start(USER)
    before, ids = talk.ids, talk.write("<think>\nhm\n</think>\n\nIt is 42.")
    talk.say(AGAIN)
    assert not talk.branched and talk.ids[: len(before) + len(ids)] == (*before, *ids)
    assert talk.text == talk.rendering


def test_a_malformed_call_stays_as_it_is(templates: Any) -> None:
    talk = Talk(templates, "qwen3").start(USER)
    before, ids = talk.ids, talk.write('<tool_call>\n{"name": "add", "argu')
    talk.say({"role": "user", "content": "That is no call."})
    assert not talk.branched and talk.ids[: len(before) + len(ids)] == (*before, *ids)


def test_a_template_that_shortens_history(templates: Any) -> None:
    """Only the last two messages are shown: everything before is gone, and the turn is a branch."""
    import copy

    talk = Talk(templates, "gemma", tools=False)
    talk.tokenizer = copy.copy(talk.tokenizer)
    talk.tokenizer.chat_template = (
        "{%- for m in messages[-3:] %}{{- m.role + ':' + m.content + '<end_of_turn>' }}"
        "{%- endfor %}"
        "{%- if add_generation_prompt %}{{- 'assistant:' }}{%- endif %}"
    )
    talk.chat = Chat(talk.tokenizer)
    talk.start(USER)
    talk.write("The answer is 42.")
    talk.say(AGAIN)
    assert not talk.branched
    ids = talk.write("It is 42 again.")
    talk.say(USER)
    assert talk.branched and talk.text == talk.rendering and "What is" not in talk.text[:20]
    assert any(talk.ids[i : i + len(ids)] == tuple(ids) for i in range(len(talk.ids)))


def test_what_cannot_be_said(templates: Any) -> None:
    talk = Talk(templates, "gemma", tools=False).start(USER)
    with pytest.raises(DataError):
        talk.say(AGAIN)
    talk.write("a")
    with pytest.raises(TemplateError, match="only user and assistant"):
        talk.say({"role": "system", "content": "b"})


@pytest.mark.parametrize("style", ["gemma"])
def test_templates_without_tools_are_refused(templates: Any, style: str) -> None:
    with pytest.raises(TemplateError, match="tools"):
        Talk(templates, style)


def test_templates_that_drop_results_are_refused(templates: Any) -> None:
    import copy

    tokenizer = copy.copy(templates.tokenizer("llama3"))
    tokenizer.chat_template = (
        "{{- tools }}{%- for m in messages if m.role == 'user' %}{{- m.content }}{%- endfor %}"
    )
    with pytest.raises(TemplateError, match="role tool"):
        Chat(tokenizer, tools=[TOOL])
