"""Digit tokenizers, tokens per integer, and tokenizers that are neither."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from posttrain.dynamics.number_tokens import NumberTokens
from posttrain.errors import ModelError
from posttrain.model_config import model_location


def words(vocab: list[str], pattern: str) -> Any:
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocab)}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?")


def test_a_tokenizer_of_bytes_has_a_token_per_digit() -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_location("embedded"))
    tokens = NumberTokens.of(tokenizer)
    assert tokens.per_digit and (tokens.digits, tokens.per_number) == (3, 3)
    assert tokens.begin == tokenizer.bos_token_id
    ids = tokens.encode([150, 7])
    assert tokenizer.decode(ids.reshape(-1)) == "150,007,"
    expected = tokenizer("150,007,", add_special_tokens=False)["input_ids"]
    assert ids.reshape(-1).tolist() == expected
    assert NumberTokens.of(tokenizer, 2).encode([7]).shape == (1, 3)


@pytest.mark.parametrize("digits", [2, 3])
def test_a_token_per_integer(digits: int) -> None:
    vocab = ["?", ",", *(f"{n:0{digits}d}" for n in range(10**digits))]
    tokens = NumberTokens.of(words(vocab, rf"\d{{{digits}}}|,"))
    assert not tokens.per_digit and tokens.digits == digits and tokens.begin is None
    np.testing.assert_array_equal(tokens.encode([7, 42]), [[9, 1], [44, 1]])


def test_tokens_of_several_lengths_are_refused() -> None:
    pairs = ["?", ",", *map(str, range(10)), *(f"{n:02d}" for n in range(100))]
    tokenizer = words(pairs, r"\d{1,2}|,")
    with pytest.raises(ModelError):
        NumberTokens.of(tokenizer, 3)
    assert not NumberTokens.of(tokenizer).per_digit  # pairs of digits are integers below 100
    with pytest.raises(ModelError):
        NumberTokens.of(words(["?", ","], r"\d|,"))
