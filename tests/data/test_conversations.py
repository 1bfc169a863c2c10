"""Conversations by chat templates: which tokens are trained."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from posttrain.data.conversations import encode_messages
from posttrain.data.templates import (
    encode_prompt,
)
from posttrain.errors import TemplateError
from posttrain.types import Message

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% "
    "endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start|>' + m.role + '<|sep|>\n\n' + m.content | "
    "trim + '<|eot|>' }}{% endfor %}{% if add_generation_prompt %}{{ "
    "'<|start|>assistant<|sep|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not "
    "supported') }}{% endif %}{% for m in messages %}{{ '<|start|>' + ('model' if m.role == "
    "'assistant' else m.role) + '\n' + m.content | trim + '<|eot|>\n' }}{% endfor %}{% if "
    "add_generation_prompt %}{{ '<|start|>model\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ ' [INST] ' + m.content + ' "
    "[/INST]' }}{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
# strips the thinking of all turns but the last one
QWEN3 = (
    "{% for m in messages %}{% set c = m.content %}{% if m.role == 'assistant' and not loop.last "
    "and '</think>' in c %}{% set c = c.split('</think>')[-1].lstrip('\n') %}{% endif %}{{ "
    "'<|im_start|>' + m.role + '\n' + c + '<|im_end|>\n' }}{% endfor %}{% if "
    "add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start|>", "<|sep|>", "<|eot|>"]


def make(template: str | None, *, bos: bool = True, pad: str | None = None) -> Any:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {t: i for i, t in enumerate([*SPECIAL, *letters, "he", "ll", "hell"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[("h", "e"), ("l", "l"), ("he", "ll")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 0)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token=pad,
        chat_template=template,
        additional_special_tokens=SPECIAL[2:],
    )


def chat(*turns: str) -> list[Message]:
    return [{"role": ("user", "assistant")[i % 2], "content": t} for i, t in enumerate(turns)]


def trained_text(tokenizer: Any, sequence: Any) -> str:
    return tokenizer.decode(sequence.ids[sequence.loss_mask], skip_special_tokens=False)


END = {
    CHATML: "<|im_end|>",
    LLAMA: "<|eot|>",
    GEMMA: "<|eot|>",
    MISTRAL: "</s>",
    QWEN3: "<|im_end|>",
}


@pytest.mark.parametrize("template", [CHATML, LLAMA, GEMMA, MISTRAL, QWEN3])
@pytest.mark.parametrize("pad", [None, "</s>", "<|im_end|>", "<|eot|>"])
def test_assistant_turns_and_their_terminators_are_trained(template: str, pad: str | None) -> None:
    """Whatever the pad token is: position decides, never the id."""
    tokenizer = make(template, pad=pad)
    sequence = encode_messages(tokenizer, chat("hi", "hello there", "more?", "no"))
    end = END[template]
    lead = " " if template == MISTRAL else ""
    assert trained_text(tokenizer, sequence) == f"{lead}hello there{end}{lead}no{end}"
    last = encode_messages(tokenizer, chat("hi", "hello there", "more?", "no"), train_on="last")
    assert trained_text(tokenizer, last) == f"{lead}no{end}"
    everything = encode_messages(tokenizer, chat("hi", "yes"), train_on="everything")
    assert everything.loss_mask.sum() == len(everything.ids) - 1
    assert (sequence.ids == 0).sum() == (
        "bos_token" in template
    )  # BOS once, or as the template wants it


@pytest.mark.parametrize("template", [CHATML, LLAMA, GEMMA, MISTRAL])
def test_training_begins_where_sampling_begins(template: str) -> None:
    """What stands before the first trained token is the prompt that an engine is given."""
    tokenizer = make(template)
    sequence = encode_messages(tokenizer, chat("hi", "hello"))
    prompt = encode_prompt(tokenizer, chat("hi"))
    assert sequence.ids[: int(sequence.loss_mask.argmax())].tolist() == prompt


def test_a_template_that_rewrites_history_is_refused_and_shown() -> None:
    tokenizer = make(QWEN3)
    turns = chat("hi", "<think>hm</think>\nhello", "more?", "no")
    with pytest.raises(
        TemplateError, match=r"(?s)rewrites earlier turns.*turn 1 differs.*<think>.*train_on: last"
    ):
        encode_messages(tokenizer, turns, row="4")
    assert (
        trained_text(tokenizer, encode_messages(tokenizer, turns, train_on="last"))
        == "no<|im_end|>"
    )


def test_messages_may_be_left_out_or_weighed() -> None:
    tokenizer = make(CHATML)
    turns = chat("a", "first", "b", "second")
    turns[1]["train"] = False
    assert trained_text(tokenizer, encode_messages(tokenizer, turns)) == "second<|im_end|>"
    turns = chat("a", "first", "b", "second")
    turns[1]["weight"] = 0.5
    sequence = encode_messages(tokenizer, turns)
    assert set(sequence.streams["weights"][sequence.loss_mask].tolist()) == {0.5, 1.0}
    assert "weights" not in encode_messages(tokenizer, chat("a", "b")).streams


def test_a_prompt_that_merges_with_the_turn_is_tokenised_apart() -> None:
    """The prompt ends in "he" and the turn begins with "ll": one token in the whole text, two
    when the model is asked.
    """
    plain = (
        "{% for m in messages %}{{ 'U:' + m.content + '\\n' if m.role == 'user' else 'he' + "
        "m.content + '</s>' }}{% endfor %}{% if add_generation_prompt %}{{ 'he' }}{% endif %}"
    )
    tokenizer = make(plain)
    turns = chat("a", "llo", "b", "llb")
    sequence = encode_messages(tokenizer, turns)
    assert trained_text(tokenizer, sequence) == "llo</s>llb</s>"
    assert tokenizer.decode(sequence.ids) == "U:a\nhello</s>U:b\nhellb</s>"
    prompt = encode_prompt(tokenizer, turns[:1])
    assert sequence.ids[: len(prompt)].tolist() == prompt and sequence.loss_mask[len(prompt)]
    last = encode_messages(tokenizer, turns, train_on="last")
    prompt = encode_prompt(tokenizer, turns[:3])
    assert last.ids[: len(prompt)].tolist() == prompt and int(last.loss_mask.argmax()) == len(
        prompt
    )


def test_a_template_that_loses_tool_calls_is_refused() -> None:
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Bern"}}}
    turns: list[Message] = [
        *chat("weather?"),
        {"role": "assistant", "content": "", "tool_calls": [call]},
    ]
    with pytest.raises(
        TemplateError, match="row 3: turn 1 calls the tool 'weather', but the chat template writes"
    ):
        encode_messages(make(CHATML), turns, row="3")
    writes = CHATML.replace(
        "m.content +", "m.content + (m.tool_calls | tojson if m.tool_calls else '') +"
    )
    assert "Bern" in trained_text(make(writes), encode_messages(make(writes), turns))


def test_random_conversations_decode_to_what_was_said() -> None:
    draw = np.random.default_rng(0)
    letters = np.array(list("abhel o\u00e9\u4e16\n"))
    tokenizer = make(CHATML)
    for _ in range(30):
        turns = chat(
            *(
                "x" + "".join(draw.choice(letters, draw.integers(1, 12)))
                for _ in range(2 * int(draw.integers(1, 4)))
            )
        )
        said = "".join(m["content"] + "<|im_end|>" for m in turns if m["role"] == "assistant")
        assert trained_text(tokenizer, encode_messages(tokenizer, turns)) == said
