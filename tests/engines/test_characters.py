"""Text as ids: whatever is encoded comes back, and conversations keep their roles."""

from __future__ import annotations

import json

import pytest

from posttrain.data.templates import decode_completion, encode_prompt
from posttrain.engines.characters import (
    END,
    CharacterTokenizer,
    piece_id,
    piece_text,
    split_pieces,
)
from posttrain.errors import DataError
from posttrain.types import Sample

TEXTS = [
    "",
    "a",
    "ab",
    "é",
    "日本語のトークン",
    " something longer than eight bytes",
    "🙂",
    "\x00",
    "\uffff",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_piece_of_text_is_one_id_and_comes_back(text: str) -> None:
    assert piece_text(piece_id(text)) == text
    assert json.loads(json.dumps(piece_id(text))) == piece_id(text)
    for number in (1, 2, 3, 7):
        ids = split_pieces(text, number)
        assert "".join(map(piece_text, ids)) == text
        assert len(ids) == number
    if len(text) == 1:
        assert piece_id(text) == ord(text)


def test_ids_of_different_texts_differ_and_no_other_number_is_one() -> None:
    ids = [piece_id(text) for text in TEXTS]
    assert len(set(ids)) == len(ids) and END not in ids
    for number in (-1, END + 2, 2**64):
        with pytest.raises(DataError):
            piece_text(number)


def test_a_conversation_keeps_its_roles_and_the_turn_that_has_begun() -> None:
    tokenizer = CharacterTokenizer()
    messages = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "hi\n"}]
    ids = encode_prompt(tokenizer, messages)
    assert tokenizer.parse(ids) == [*messages, {"role": "assistant", "content": ""}]
    ids += [piece_id("Hello "), *tokenizer.encode("you")]
    assert tokenizer.parse(ids)[-1] == {"role": "assistant", "content": "Hello you"}
    assert encode_prompt(tokenizer, "plain") == tokenizer.encode("plain")
    assert tokenizer.parse(tokenizer.encode("plain")) == "plain"
    sample = Sample([piece_id("ab"), piece_id("c\n"), END], [], [], "stop", "\n")
    assert decode_completion(tokenizer, sample) == "abc"


def test_contents_that_are_no_text_are_refused() -> None:
    tokenizer = CharacterTokenizer()
    for content in (None, [{"type": "text", "text": "a"}], "\ufdd0user"):
        with pytest.raises(DataError):
            tokenizer.apply_chat_template([{"role": "user", "content": content}])
    with pytest.raises(DataError):
        tokenizer.apply_chat_template([], tools=[{}])
