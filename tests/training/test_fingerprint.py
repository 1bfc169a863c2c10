from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posttrain.data.forest import TokenSequence
from posttrain.data.store import SequenceStore
from posttrain.models.load import load_tokenizer
from posttrain.sources.collect import Collector, Prompt
from posttrain.sources.rows import DataSource, Singles
from posttrain.training.fingerprint import (
    rows_difference,
    rows_digest,
    tokenizer_digest,
    weights_digest,
)
from posttrain.types import Example, Sampling


def sequence(
    *ids: int, weight: float = 1.0, reward: float = 0.0, ref: float = 0.0
) -> TokenSequence:
    streams = {"weights": np.full(len(ids), weight), "ref_logprobs": np.full(len(ids), ref)}
    return TokenSequence(np.array(ids), np.arange(len(ids)) > 0, streams, {"reward": reward})


def source(*rows: TokenSequence) -> DataSource:
    return DataSource([[row] for row in rows], batch_size=2, seed=0)


def test_rows_count_alike_wherever_they_lie(tmp_path: Path) -> None:
    rows = [sequence(1, 2, 3), sequence(4, 5), sequence(6, 7, 8)]
    stores = [
        SequenceStore(tmp_path, memory_tokens=tokens) for tokens in (100, 4)
    ]  # in memory, on disk
    for store in stores:
        for row in rows:
            store.append(row)
    for kept in (rows, *stores):
        assert rows_digest(DataSource(Singles(kept), batch_size=2, seed=0)) == rows_digest(
            source(*rows)
        )


def test_all_that_is_trained_on_counts() -> None:
    base = rows_digest(source(sequence(1, 2, 3), sequence(4, 5)))
    assert base["count"] == 2
    assert rows_difference(base, rows_digest(source(sequence(1, 2, 3), sequence(4, 5)))) is None
    # What the run computes itself (and may round otherwise) does not.
    assert (
        rows_difference(base, rows_digest(source(sequence(1, 2, 3, ref=-1.5), sequence(4, 5))))
        is None
    )
    other = "the content of the 2 rows differs"
    assert rows_difference(base, rows_digest(source(sequence(1, 2, 4), sequence(4, 5)))) == other
    assert (
        rows_difference(base, rows_digest(source(sequence(1, 2, 3, weight=0.5), sequence(4, 5))))
        == other
    )
    assert (
        rows_difference(base, rows_digest(source(sequence(1, 2, 3, reward=1.0), sequence(4, 5))))
        == other
    )
    swapped = rows_digest(source(sequence(4, 5), sequence(1, 2, 3)))
    assert rows_difference(base, swapped) == "the 2 rows stand in another order"
    assert rows_difference(base, rows_digest(source(sequence(1, 2, 3)))) == "2 rows -> 1 rows"


def prompts(**change: Any) -> Collector:
    example = Example(
        **{"prompt": "a", "answer": 1, "columns": {"kind": {"x", "y", "z"}}, "id": "0", **change}
    )
    return Collector(
        [Prompt(example, (1, 2))],
        None,
        None,
        decode=str,
        sampling=Sampling(),
        batch_size=1,
        num_generations=1,
        seed=0,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    "change", [{"answer": 2}, {"completion": " b"}, {"columns": {"kind": {"x"}}}, {"id": "1"}]
)
def test_prompts_count_with_their_answers(change: dict[str, Any]) -> None:
    base = rows_digest(prompts())
    assert rows_difference(base, rows_digest(prompts())) is None
    assert (
        rows_difference(base, rows_digest(prompts(**change))) == "the content of the 1 rows differs"
    )


def test_tokenizer_and_weights(tiny_folder: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny_folder)
    before = tokenizer_digest(tokenizer)
    tokenizer(
        ["a", "abc"], padding=True, truncation=True, max_length=2
    )  # settings of a call stay in it
    assert tokenizer_digest(tokenizer) == before == tokenizer_digest(load_tokenizer(tiny_folder))
    copied = tmp_path / "copy"
    shutil.copytree(tiny_folder, copied)
    assert weights_digest(str(copied)) == weights_digest(str(tiny_folder))
    file = copied / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    assert weights_digest(str(copied)) != weights_digest(str(tiny_folder))
