"""Tokenizers: which one a folder gets, and which token pads."""

from __future__ import annotations

from pathlib import Path

import pytest

from posttrain.errors import ModelError
from posttrain.models.load import load_model
from posttrain.models.tokenizer import load_tokenizer, separate_padding, tokenizer_source


def test_tokenizer_that_does_not_belong(folder: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens([f"new{i}" for i in range(9)])
    tokenizer.save_pretrained(tmp_path / "larger")
    with pytest.raises(ModelError, match="tokenizer has 59 tokens but the model only 53"):
        load_model(folder, tokenizer=str(tmp_path / "larger"))
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(ModelError, match="no tokenizer that can be loaded"):
        load_model(folder)


def test_padding_differs_from_the_end_where_a_special_token_does(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    tokenizer.pad_token = tokenizer.eos_token
    separate_padding(tokenizer)
    assert tokenizer.pad_token not in (None, tokenizer.eos_token)
    first = tokenizer.pad_token
    separate_padding(tokenizer)
    assert tokenizer.pad_token == first


def test_adapters_bring_their_own_tokenizer(tmp_path: Path) -> None:
    assert tokenizer_source(str(tmp_path), "base", None) == "base"
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert tokenizer_source(str(tmp_path), "base", None) == str(tmp_path)
    assert tokenizer_source(str(tmp_path), "base", "named") == "named"
