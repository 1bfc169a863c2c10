"""The report of rows: its numbers, its text of 80 columns, its page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from posttrain.curation.summary import data_report
from posttrain.errors import ConfigError

CHAT = [
    {
        "messages": [
            {"role": "user", "content": f"What is {i} plus {i}, and what of the rest?"},
            {"role": "assistant", "content": f"It is {2 * i} and that is all of it."},
        ]
    }
    for i in range(8)
]


def files(tmp_path: Path) -> list[str]:
    pairs = [{"prompt": f"<b>Q{i}</b> " + "word " * i, "completion": "yes"} for i in range(6)]
    pairs += [pairs[3], {"prompt": 5, "completion": "no"}]
    out = []
    for name, rows in (("chat", CHAT), ("pairs", pairs)):
        out.append(str(tmp_path / f"{name}.jsonl"))
        Path(out[-1]).write_text("\n".join(map(json.dumps, rows)))
    return out


def test_counts_copies_overlap_and_measures(tmp_path: Path) -> None:
    evaluation = [{"question": "What is 7 plus 7, and what of the rest?"}, {"question": "no such"}]
    report = data_report(files(tmp_path), against={"sums": evaluation}, near=False)
    chat, pairs = report.parts
    assert (chat.form, chat.num_rows, chat.num_unread) == ("messages", 8, 0)
    assert chat.roles == {"user": 8, "assistant": 8}
    assert (pairs.form, pairs.num_rows, pairs.num_unread) == ("prompt-completion", 8, 1)
    assert report.num_rows == 16
    assert report.duplicates is not None and report.duplicates.num_exact == 1
    assert report.duplicates.first[14] == 11
    assert [hit.row for hit in report.overlaps["sums"].hits] == [7]
    words = next(m for m in report.measures if m.name == "completion_words")
    assert words.percentiles()[-1] == 9 and len(words.highest) == 3


def test_the_text_fits_80_columns_and_the_page_holds_no_markup_of_rows(tmp_path: Path) -> None:
    page = tmp_path / "out" / "report.html"
    report = data_report(files(tmp_path), measures=["tokens", "language"], output=page)
    lines = str(report).splitlines()
    assert max(map(len, lines)) <= 80 and any("messages" in line for line in lines)
    text = page.read_text()
    assert "&lt;b&gt;Q" in text and "<b>Q" not in text
    assert text.count("<svg") == 4  # lengths of two files, two measures
    assert "default-src 'none'" in text


def test_rows_in_memory_and_no_measures() -> None:
    report = data_report(iter(CHAT), measures=[])
    assert report.num_rows == 8 and report.measures == [] and "8 rows" in str(report)


def test_a_measure_that_needs_a_model_is_refused_before_reading() -> None:
    with pytest.raises(ConfigError):
        data_report("no/such/file.jsonl", measures=["ifd"])


def test_a_tokenizer_counts_tokens(tiny_folder: Path) -> None:
    report = data_report(CHAT, measures=["tokens"], model=str(tiny_folder))
    assert report.unit == "tokens"
    assert report.parts[0].num_tokens() == sum(report.measures[0].values)
