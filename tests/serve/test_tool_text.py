from __future__ import annotations

import copy
import itertools
import random
from typing import Any

import pytest

from posttrain.serve.sample_text import SampleText
from posttrain.serve.tool_text import CallReader, ToolText, call_fields
from posttrain.types import ToolCall

ADD = '{"name": "add", "arguments": {"x": 1}}'
HERMES = f"<tool_call>\n{ADD}\n</tool_call>"
CODER = "<tool_call><function=add><parameter=x>1</parameter></function></tool_call>"
LLAMA = '{"name": "add", "parameters": {"x": 1}}'
NO_CALL = "a < b <tool_ca and [TOOL_ and { }"

CASES = [
    ("hermes", HERMES, "", 1),
    ("hermes", f"Let me see.\n\n{HERMES}", "Let me see.", 1),
    ("hermes", f"one {HERMES}{HERMES} dropped", "one", 2),
    ("hermes", NO_CALL, NO_CALL, 0),
    ("hermes", "ends with spaces  \n", "ends with spaces  \n", 0),
    ("hermes", f"cut {HERMES[:-5]}", f"cut {HERMES[:-5]}", 0),
    ("hermes", "odd <tool_call>{]</tool_call>", "odd <tool_call>{]</tool_call>", 0),
    ("hermes", f"<think>maybe {HERMES}</think>no", f"<think>maybe {HERMES}</think>no", 0),
    ("hermes", f"<think>hm</think>\n\nyes {HERMES}", "<think>hm</think>\n\nyes", 1),
    ("hermes", f"<think>never ends {HERMES}", f"<think>never ends {HERMES}", 0),
    ("qwen_coder", f"go {CODER}", "go", 1),
    ("llama", LLAMA, "", 1),
    ("llama", f"{LLAMA}; {LLAMA}", "", 2),
    ("llama", "text {", "text {", 0),
    ("llama", "{not a call", "{not a call", 0),
    ("llama", f"run <|python_tag|>{LLAMA}", "run", 1),
    ("mistral", f"so [TOOL_CALLS][{ADD}]", "so", 1),
    ("mistral", 'so [TOOL_CALLS]add[ARGS]{"x": 1}', "so", 1),
    ("none", f"text {HERMES}", f"text {HERMES}", 0),
]


def read(reader: CallReader, text: str, cuts: list[int], prefix: str = "") -> Any:
    """(content that came before the end, whole content, calls) of a text in pieces."""
    tool_text = ToolText(reader, prefix)
    places = [0, *sorted(cuts), len(text)]
    sent = "".join(tool_text.add(text[a:b]) for a, b in itertools.pairwise(places))
    rest, calls = tool_text.end()
    return sent, sent + rest, calls


@pytest.mark.parametrize(("form", "text", "content", "num_calls"), CASES)
def test_content_and_calls_do_not_depend_on_the_pieces(
    tiny_tokenizer: Any, form: str, text: str, content: str, num_calls: int
) -> None:
    reader = CallReader(tiny_tokenizer, [], form)
    generator = random.Random(4)
    pieces = [[], list(range(len(text)))]
    pieces += [[generator.randrange(len(text)) for _ in range(6)] for _ in range(20)]
    for cuts in pieces:
        _, whole, calls = read(reader, text, cuts)
        assert whole == content
        assert calls == [ToolCall("add", {"x": 1})] * num_calls


def test_content_is_sent_before_the_end(tiny_tokenizer: Any) -> None:
    reader = CallReader(tiny_tokenizer, [], "hermes")
    sent, _, _ = read(reader, f"a long answer {HERMES}", list(range(20)))
    assert sent == "a long answer"
    sent, _, _ = read(reader, "a long answer <to", [])
    assert sent == "a long answer"  # the rest may begin a call
    sent, _, _ = read(reader, "<think>one <tool_call> two", [])
    assert sent == "<think>one <tool_call> two"


def test_a_thought_that_the_prompt_opens_holds_no_calls(tiny_tokenizer: Any) -> None:
    reader = CallReader(tiny_tokenizer, [], "hermes")
    text = f"perhaps {HERMES}</think>No."
    assert read(reader, text, [5, 30], prefix="<think>\n") == (text, text, [])


def test_the_form_is_the_templates(tiny_tokenizer: Any) -> None:
    tokenizer = copy.copy(tiny_tokenizer)
    tokenizer.chat_template = "{{ '[TOOL_CALLS]' }}"
    assert CallReader(tokenizer, []).marks == ("[TOOL_CALLS]",)
    assert CallReader(tiny_tokenizer, []).marks == ("<tool_call>",)


def test_marks_that_are_special_tokens_are_part_of_the_text(tiny_tokenizer: Any) -> None:
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.add_tokens(["[TOOL_CALLS]", "<|other|>"], special_tokens=True)
    reader = CallReader(tokenizer, [], "mistral", stop_ids={tokenizer.eos_token_id})
    ids = tokenizer(f"a<|other|>b [TOOL_CALLS][{ADD}]", add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_tokens_to_ids("[TOOL_CALLS]") in ids
    sample_text = SampleText(tokenizer, kept_ids=reader.kept_ids)
    text = sample_text.add([*ids, tokenizer.eos_token_id]) + sample_text.end()
    assert text == f"ab [TOOL_CALLS][{ADD}]"
    assert read(reader, text, [])[1:] == ("ab", [ToolCall("add", {"x": 1})])


def test_a_response_template_reads_the_whole_text(tiny_tokenizer: Any) -> None:
    class Tokenizer:
        response_template = "fields of a message"
        all_special_ids, all_special_tokens = (7, 8), ("<|call|>", "<|end|>")

        def parse_response(self, text: str, **options: Any) -> dict[str, Any]:
            content, mark, name = text.partition("<|call|>")
            calls = [{"function": {"name": name, "arguments": {}}}] if mark else []
            return {"role": "assistant", "content": content, "tool_calls": calls}

    reader = CallReader(Tokenizer(), [], stop_ids={8})
    assert reader.kept_ids == {7} and reader.marks == ()
    assert read(reader, "so<|call|>f", [3]) == ("", "so", [ToolCall("f", {})])
    assert read(reader, "plain", [3]) == ("", "plain", [])


def test_calls_in_the_shape_of_openai() -> None:
    first, second = call_fields([ToolCall("f", {"x": "é"}), ToolCall("f", {})])
    assert first["function"] == {"name": "f", "arguments": '{"x": "é"}'}
    assert first["id"] != second["id"]
    assert len(first["id"]) == 9 and first["id"].isalnum()
