"""Prompts and labels as text, messages and token ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from posttrain.errors import ConfigError, TemplateError
from posttrain.incontext.rows import Labelled
from posttrain.incontext.templates import PromptEncoder, Template
from posttrain.models.load import load_tokenizer

SHOTS = [Labelled("fine day", "pos"), Labelled("rain", "neg")]
PLAIN = Template(instruction="Judge.", chat=False)


def test_a_plain_prompt() -> None:
    assert PLAIN.text(SHOTS, "sun") == (
        "Judge.\n\nInput: fine day\nLabel: pos\n\nInput: rain\nLabel: neg\n\nInput: sun\nLabel:"
    )
    worded = Template(words={"pos": "positive"}, input="{text} =>", separator="\n")
    assert worded.text(SHOTS[:1], "sun") == "fine day => positive\nsun =>"


def test_a_chat_has_a_turn_for_each_demonstration() -> None:
    messages = PLAIN.messages(SHOTS[:1], "sun")
    assert [(m["role"], m["content"]) for m in messages] == [
        ("system", "Judge."),
        ("user", "fine day"),
        ("assistant", "pos"),
        ("user", "sun"),
    ]


def test_plain_ids_are_those_of_the_text(tiny_tokenizer: Any) -> None:
    encoder = PromptEncoder(tiny_tokenizer, PLAIN, ["pos", "neg"])
    ids = encoder.prompt_ids(SHOTS, "sun")
    assert ids == tuple(tiny_tokenizer(PLAIN.text(SHOTS, "sun"))["input_ids"])
    assert tiny_tokenizer.decode(encoder.label_ids[1]) == " neg"
    assert encoder.num_bytes == [3, 3]


def test_ids_of_a_tokenizer_that_puts_spaces_before_words(stories: Path) -> None:
    tokenizer = load_tokenizer(str(stories))
    encoder = PromptEncoder(tokenizer, Template(separator="\n"), ["happy", "sad"])
    prompt = encoder.prompt_ids(SHOTS, "sun")
    behind = [*prompt, *encoder.label_ids[0]]
    assert behind == tokenizer(encoder.template.text(SHOTS, "sun") + " happy")["input_ids"]


def test_chat_ids_are_those_of_the_template(tiny_tokenizer: Any) -> None:
    encoder = PromptEncoder(tiny_tokenizer, Template(), ["pos", "neg"])
    assert encoder.is_chat
    messages = encoder.template.messages(SHOTS, "sun")
    text = tiny_tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert tiny_tokenizer.decode(encoder.prompt_ids(SHOTS, "sun")) == text
    assert tiny_tokenizer.decode(encoder.label_ids[0]) == "pos"


def test_equal_demonstrations_are_equal_prefixes(tiny_tokenizer: Any) -> None:
    encoder = PromptEncoder(tiny_tokenizer, PLAIN, ["pos", "neg"])
    a, b = encoder.prompt_ids(SHOTS, "sun"), encoder.prompt_ids(SHOTS, "moon and stars")
    shots = encoder.prompt_ids(SHOTS, "")[: -len("Input: \nLabel:")]
    assert a[: len(shots)] == b[: len(shots)] == shots


def test_where_a_question_s_text_begins(tiny_tokenizer: Any) -> None:
    ids, behind = PromptEncoder(tiny_tokenizer, PLAIN, ["pos", "neg"]).opening(SHOTS[:1])
    text = tiny_tokenizer.decode(ids, skip_special_tokens=True)
    assert text == "Judge.\n\nInput: fine day\nLabel: pos\n\nInput:"
    assert tiny_tokenizer.decode(behind) == "\nLabel:"
    ids, behind = PromptEncoder(tiny_tokenizer, Template(), ["pos", "neg"]).opening(SHOTS[:1])
    assert tiny_tokenizer.decode(ids).endswith("<|user|>\n")
    assert tiny_tokenizer.decode(behind).startswith("<|end|>")


@pytest.mark.parametrize(
    "keys",
    [{"input": "no place"}, {"label": "{text}"}, {"turn": "{text} {text}"}, {"input": "{text}{x}"}],
)
def test_forms_without_their_place_are_refused(keys: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=next(iter(keys))):
        Template(**keys)


def test_labels_that_cannot_be_told_apart_are_refused(tiny_tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match="'b'"):
        PromptEncoder(tiny_tokenizer, Template(words={"b": "a"}), ["a", "b"])


def test_chat_without_a_template_is_refused(other_tokenizer: Path) -> None:
    tokenizer = load_tokenizer(str(other_tokenizer))
    with pytest.raises(TemplateError):
        PromptEncoder(tokenizer, Template(chat=True), ["1", "2"])
