from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posttrain.data.encode import encode_rows
from posttrain.data.rows import load_rows
from posttrain.errors import DataError

PAIR = {
    "prompt": "abcd",
    "completion": "efgh",
}  # 1 + 4 + 4 + 1 tokens: BOS, prompt, completion, EOS


def test_truncation(tiny_tokenizer: Any) -> None:
    rows = [PAIR, {"prompt": "ab", "completion": "c"}]
    whole = encode_rows(rows, tiny_tokenizer)
    assert whole.lengths.tolist() == [10, 5] and whole.num_trained == 7
    cut = encode_rows(rows, tiny_tokenizer, max_length=7, max_cut=1.0)
    assert cut.lengths.tolist() == [7, 5] and cut.truncated == 1
    assert tiny_tokenizer.decode(cut.sequences[0].ids[cut.sequences[0].loss_mask]) == "ef"
    end = encode_rows(rows, tiny_tokenizer, max_length=7, truncation="keep_end", max_cut=1.0)
    assert (
        tiny_tokenizer.decode(end.sequences[0].ids) == "cdefgh<|end|>"
        and not end.sequences[0].loss_mask[0]
    )
    dropped = encode_rows(rows, tiny_tokenizer, max_length=7, truncation="drop", max_cut=1.0)
    assert dropped.dropped == 1 and len(dropped.sequences) == 1
    with pytest.raises(DataError, match="row 0 has 10 tokens, data.max_length is 7"):
        encode_rows(rows, tiny_tokenizer, max_length=7, truncation="error")


def test_rows_without_trained_tokens_are_counted_and_bounded(tiny_tokenizer: Any) -> None:
    rows = [*[PAIR] * 9, {"prompt": "a" * 30, "completion": "b"}]
    encoded = encode_rows(rows, tiny_tokenizer, max_length=20, max_cut=0.2)
    assert encoded.masked == ["9"] and len(encoded.sequences) == 9
    with pytest.raises(
        DataError, match=r"1 of 10 rows have no token left to train on \(first: 9\)"
    ):
        encode_rows(rows, tiny_tokenizer, max_length=20, max_masked=0.05)


def test_what_is_trained_by_format(tiny_tokenizer: Any) -> None:
    def trained(row: dict[str, Any], train_on: Any = "auto") -> str:
        (sequence,) = encode_rows([row], tiny_tokenizer, train_on=train_on).sequences
        return tiny_tokenizer.decode(sequence.ids[sequence.loss_mask], skip_special_tokens=False)

    turns = [
        {"role": r, "content": c}
        for r, c in (("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    ]
    assert trained({"messages": turns}) == "b<|end|>d<|end|>"
    assert trained({"messages": turns}, "completion") == "d<|end|>"
    assert trained({"prompt": turns[:3], "completion": turns[3:]}) == "d<|end|>"
    assert (
        trained({"prompt": turns[:3], "completion": turns[3:]}, "all_assistant")
        == "b<|end|>d<|end|>"
    )
    assert trained({"text": "xyz"}) == "xyz<|end|>"
    assert trained(PAIR, "everything") == "abcdefgh<|end|>"


def test_packing_keeps_every_sequence(tiny_tokenizer: Any) -> None:
    from posttrain.data.forest import Forest, Tree

    encoded = encode_rows([PAIR, {"prompt": "ab", "completion": "c"}] * 3, tiny_tokenizer)
    forest = Forest.pack([Tree.build([s]) for s in encoded.sequences])
    assert forest.tokens.tolist() == np.concatenate([s.ids for s in encoded.sequences]).tolist()
    assert forest.num_targets == encoded.num_trained


def test_real_rows(shared: Path, stories: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(stories)
    encoded = encode_rows(
        load_rows(shared / "data" / "gsm8k" / "test.jsonl", limit=100), tokenizer, max_length=512
    )
    assert len(encoded.sequences) >= 95 and encoded.form.name == "question-answer"
    assert all(s.ids[0] == tokenizer.bos_token_id for s in encoded.sequences)
