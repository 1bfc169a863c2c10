from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from posttrain.data.conversations import encode_messages
from posttrain.data.templates import (
    decode_completion,
    encode_pair,
    encode_prompt,
    encode_text,
    template_fingerprint,
)
from posttrain.errors import DataError, TemplateError
from posttrain.types import Message, Sample

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


def test_template_errors() -> None:
    with pytest.raises(TemplateError, match="no chat template"):
        encode_messages(make(None), chat("a", "b"))
    with pytest.raises(TemplateError, match="refuses the conversation: System role not supported"):
        encode_prompt(make(GEMMA), chat("a"), system="be kind")


def test_plain_text_has_bos_once_and_trains_eos() -> None:
    for text in ("hello", "<s>hello"):
        sequence = encode_text(make(None), text)
        assert sequence.ids.tolist()[0] == 0 and (sequence.ids == 0).sum() == 1
        assert sequence.ids[-1] == 1 and sequence.loss_mask[-1] and not sequence.loss_mask[0]
    assert encode_text(make(None, bos=False), "hello").ids[0] != 0
    assert (encode_text(make(None), "hello</s>").ids == 1).sum() == 1


def test_a_pair_is_tokenised_apart() -> None:
    """ "he" + "ll" would merge over the border; the prompt's ids must be those that sampling
    starts from.
    """
    tokenizer = make(None)
    sequence = encode_pair(tokenizer, "he", "llo")
    prompt = encode_prompt(tokenizer, "he")
    assert sequence.ids[: len(prompt)].tolist() == prompt
    assert trained_text(tokenizer, sequence) == "llo</s>"
    assert not sequence.loss_mask[: len(prompt)].any()
    whole = encode_pair(tokenizer, "he", "llo", everything=True)
    assert whole.loss_mask.sum() == len(whole.ids) - 1


def test_prompts() -> None:
    tokenizer = make(CHATML)
    assert (
        tokenizer.decode(encode_prompt(tokenizer, chat("hi"), system="s"))
        == "<|im_start|>system\ns<|im_end|>\n"
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.decode(encode_prompt(tokenizer, "q", system="s")) == "<s>s\n\nq"
    with pytest.raises(DataError, match="a prompt has no tokens"):
        encode_prompt(make(None, bos=False), "")


def test_fingerprint_changes_with_what_matters() -> None:
    prints = {
        template_fingerprint(t)
        for t in (make(CHATML), make(LLAMA), make(CHATML, pad="</s>"), make(None))
    }
    assert len(prints) == 4
    assert template_fingerprint(make(CHATML)) == template_fingerprint(make(CHATML))


def test_decoding_drops_special_tokens_and_the_stop_string() -> None:
    tokenizer = make(None)
    ids = tokenizer("hello\n\nmore", add_special_tokens=False)["input_ids"]
    sample = Sample([*ids, 1], [], [], "stop", stop_string="\n\n")
    assert decode_completion(tokenizer, sample) == "hello"
    assert decode_completion(tokenizer, Sample([*ids, 1], [], [], "stop")) == "hello\n\nmore"
