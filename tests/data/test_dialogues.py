"""Whole dialogues as chosen and rejected become a prompt and two answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from posttrain.data.comparisons import encode_pairs
from posttrain.data.dialogues import with_shared_prompt
from posttrain.data.item import Item
from posttrain.data.rows import load_rows
from posttrain.errors import DataError

FIRST = "\n\nHuman: Hello\n\nAssistant: Hi\n\nHuman: Why?\n\nAssistant:"


def test_texts_share_all_up_to_the_last_answer() -> None:
    item = with_shared_prompt(Item("0", chosen=f"{FIRST} As it is", rejected=f"{FIRST} As if"))
    assert (item.prompt, item.chosen, item.rejected) == (FIRST, " As it is", " As if")


def test_a_prompt_that_is_there_stays() -> None:
    item = Item("0", prompt="p", chosen=f"{FIRST} a", rejected=f"{FIRST} b")
    assert with_shared_prompt(item) is item


@pytest.mark.parametrize(
    ("chosen", "rejected", "named"),
    [
        ("a", "b", "has no prompt"),
        (f"{FIRST} a", "\n\nHuman: Bye\n\nAssistant: b", "has no prompt"),
        (f"{FIRST} a", f"{FIRST} ", "'rejected' is empty"),
        (f"{FIRST} a\n\nHuman: And?\n\nAssistant: b", f"{FIRST} c", "'chosen' goes on"),
        ("a", [{"role": "assistant", "content": "b"}], "has no prompt"),
    ],
)
def test_what_cannot_be_divided_is_named(chosen: Any, rejected: Any, named: str) -> None:
    with pytest.raises(DataError, match=f"row 7.*{named}"):
        with_shared_prompt(Item("7", chosen=chosen, rejected=rejected))


def test_message_lists_are_divided_too(tiny_tokenizer: Any) -> None:
    first = [{"role": "user", "content": "Why?"}]
    row = {
        "chosen": [*first, {"role": "assistant", "content": "so"}],
        "rejected": [*first, {"role": "assistant", "content": "no"}],
    }
    good, bad = encode_pairs([row], tiny_tokenizer).groups[0]
    decoded = [tiny_tokenizer.decode(s.ids[s.loss_mask]) for s in (good, bad)]
    assert [text.startswith(word) for text, word in zip(decoded, ("so", "no"))] == [True, True]


def test_real_rows_train_on_the_last_answers_alone(shared: Path, tiny_tokenizer: Any) -> None:
    """Of the 2,312 raw pairs four have an empty answer; the others need nothing."""
    rows = load_rows(shared / "data" / "hh_rlhf" / "harmless-base_test.jsonl.gz")
    encoded = encode_pairs(rows, tiny_tokenizer, max_length=1 << 20)
    assert (encoded.num_rows, len(encoded.groups), encoded.num_unusable) == (2312, 2308, 4)
    good, bad = encoded.groups[0]
    start = int(good.loss_mask.argmax())
    assert tiny_tokenizer.decode(good.ids[:start]).endswith("\n\nAssistant:")
    assert (good.ids[:start] == bad.ids[:start]).all()
    assert rows[0]["chosen"].endswith(tiny_tokenizer.decode(good.ids[start:-1]))
    text = encoded.lost_text()
    assert "4 of 2,312 rows" in text and text.count("is empty") == 4
    with pytest.raises(DataError, match=r"data\.max_unusable=0 .*data\.max_unusable=0\.01"):
        encode_pairs(rows, tiny_tokenizer, max_length=1 << 20, max_unusable=0.0)
