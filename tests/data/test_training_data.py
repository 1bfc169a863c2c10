"""From a `DataConfig` or a task to sequences; `tests/methods/test_rows.py` has whole runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from posttrain.config import DataConfig
from posttrain.data.account import Account
from posttrain.data.comparisons import encode_pairs
from posttrain.data.training_data import (
    data_facts,
    encode_data,
    encode_stream,
    encode_task,
    limits_of,
    steps_text,
)
from posttrain.errors import ConfigError, DataError
from posttrain.types import Example, Task

ROWS = [{"prompt": f"Q{i}", "completion": f" {i}"} for i in range(10)]


def test_rows_in_memory_and_in_a_file_give_the_same_sequences(
    tmp_path: Path, tiny_tokenizer: Any
) -> None:
    from support import write

    path = write(tmp_path / "rows.jsonl", ROWS)
    one, two = (
        encode_stream(DataConfig.of(data), tiny_tokenizer, 512, account=Account())
        for data in (ROWS, path)
    )
    assert one.fingerprint() == two.fingerprint() and one.num_rows == 10


def test_pairs_in_memory(tiny_tokenizer: Any) -> None:
    pairs = [{"prompt": "Q", "chosen": " a", "rejected": f" {i}"} for i in range(9)]
    data = DataConfig.of([*pairs, {"prompt": "Q", "chosen": " a", "rejected": ""}])
    account = Account()
    encoded = encode_data(data, tiny_tokenizer, 512, encode_pairs, account=account, key="eval_data")
    assert len(encoded.groups) == 9 and account.metrics["eval_data/rows_unusable"] == 1
    assert "rejected" in account.losses["eval_data lost"]
    strict = DataConfig.of(data, max_unusable=0.0)
    with pytest.raises(DataError, match=r"eval_data\.max_unusable=0 "):
        encode_data(strict, tiny_tokenizer, 512, encode_pairs, account=Account(), key="eval_data")


def test_limits() -> None:
    assert limits_of(DataConfig("a"), None).max_length == 1024
    assert limits_of(DataConfig("a"), 512).max_length == 512
    with pytest.raises(ConfigError, match="context of 512; set it to at most 512"):
        limits_of(DataConfig("a", max_length=513), 512)
    for length in (0, 1):
        with pytest.raises(ConfigError, match=rf"eval_data\.max_length: {length} "):
            limits_of(DataConfig("a", max_length=length), 512, "eval_data")


def task(examples: list[Example]) -> Task:
    return Task("mine", examples, lambda text, example: 1.0, lambda text: None)


def test_a_task_of_plain_text_is_counted_in_documents_and_sequences(tiny_tokenizer: Any) -> None:
    texts = [Example("", "a" * n, id=str(n)) for n in (10, 100)]
    encoded = encode_task(task(texts), tiny_tokenizer, 64, account=Account())
    assert encoded.text and encoded.split == 1
    facts = dict(data_facts(encoded))
    assert "rows" not in facts and "2, in 3 sequences" in facts["documents"]
    pairs = encode_task(task([Example("Q", " a")]), tiny_tokenizer, 64, account=Account())
    assert "documents" not in dict(data_facts(pairs))


def test_worked_examples_beyond_the_context_are_dropped_up_to_a_share(tiny_tokenizer: Any) -> None:
    examples = [Example("Q", " a" * (100 if i == 0 else 1), id=str(i)) for i in range(10)]
    account = Account()
    encoded = encode_task(task(examples), tiny_tokenizer, 64, account=account)
    assert encoded.dropped == 1 and account.metrics["data/rows_dropped"] == 1
    with pytest.raises(DataError, match=r"max_prompts_dropped=0\.1$|max_prompts_dropped=0\.1 "):
        encode_task(task(examples), tiny_tokenizer, 64, account=Account(), max_dropped=0.05)


@pytest.mark.parametrize(
    ("steps", "num", "text"),
    [
        (5, 80, "5 steps of 16 rows"),
        (1, 16, "1 step of 16 rows"),
        (1, 10, "1 step of 10 rows (batch_size 16)"),
        (4, 10, "4 steps of 10 rows (batch_size 16)"),
    ],
)
def test_a_batch_larger_than_the_data_says_so(steps: int, num: int, text: str) -> None:
    assert steps_text(steps, 16, num, "rows") == text
