"""Copies among rows of any format, and rows that hold items of evaluations."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from posttrain.curation.copies import deduplicate, duplicates, texts_in
from posttrain.errors import ConfigError


def sentence(seed: int, length: int = 30) -> str:
    draw = random.Random(seed)
    return " ".join("".join(draw.choices("abcdefghij", k=6)) for _ in range(length))


def row(seed: int, **others: object) -> dict:
    return {"prompt": f"Q {sentence(seed)}", "completion": sentence(seed + 1000), **others}


def test_ids_do_not_count_and_formats_are_told_by_file(tmp_path: Path) -> None:
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    first.write_text("\n".join(json.dumps(row(i, id=f"a{i}")) for i in range(5)))
    chat = [
        {
            "messages": [
                {"role": "user", "content": row(i)["prompt"]},
                {"role": "assistant", "content": row(i)["completion"]},
            ]
        }
        for i in range(3, 8)
    ]
    second.write_text("\n".join(map(json.dumps, chat)))
    result = duplicates([first, str(second)])
    assert result.first.tolist() == [-1] * 5 + [3, 4, -1, -1, -1]
    assert result.num_exact == 2


def test_raw_dialogues_are_compared_with_their_rejected_answers() -> None:
    def pair(answer: str, other: str) -> dict:
        start = f"\n\nHuman: {sentence(1)}\n\nAssistant:"
        return {"chosen": f"{start} {answer}", "rejected": f"{start} {other}"}

    rows = [pair(sentence(2), sentence(3)), pair(sentence(2), sentence(4))] * 2
    assert duplicates(rows, threshold=0.9).first.tolist() == [-1, -1, 0, 1]


def test_columns_choose_what_is_compared() -> None:
    rows = [row(1, topic="x"), row(2, topic="x"), row(3, topic="y")]
    assert duplicates(rows, columns=["topic"]).first.tolist() == [-1, 0, -1]
    assert list(texts_in(rows, ["topic"])) == ["x", "x", "y"]


def test_deduplicate_leaves_out_copies_and_items_of_evaluations(tmp_path: Path) -> None:
    rows = [row(i) for i in range(6)]
    rows += [{**rows[2], "completion": rows[2]["completion"].upper()}]
    evaluation = [{"question": sentence(4), "answer": "7"}, {"question": sentence(99)}]
    done = deduplicate(rows, against={"eval": evaluation}, evaluation_columns=["question"])
    assert done.rows == [rows[i] for i in (0, 1, 2, 3, 5)]
    assert (done.num_overlapping, done.num_rows) == (1, 5)
    assert len(done.overlaps["eval"].hits) == 1 and "5 rows left" in str(done)

    output = tmp_path / "out.jsonl"
    written = deduplicate(iter(rows), output=output)
    assert [json.loads(line) for line in output.read_text().splitlines()] == rows[:6]
    assert written.rows == [] and written.num_rows == 6
    with pytest.raises(ConfigError):
        deduplicate(rows, output=output)
    assert deduplicate(rows, output=output, force=True).num_rows == 6


def test_a_long_file_with_an_item_in_the_middle_loses_that_row_alone() -> None:
    rows = [{"text": sentence(i, 60)} for i in range(20)]
    item = " ".join(rows[7]["text"].split()[10:40])
    done = deduplicate(rows, against={"e": [{"question": item}]}, near=False)
    assert done.rows == [r for i, r in enumerate(rows) if i != 7]
