"""Messages of errors."""

from __future__ import annotations

from posttrain.errors import ConfigError, nearest, nearest_files, shown


def test_a_long_message_keeps_its_ends() -> None:
    text = str(ConfigError("a" * 3000 + "end"))
    assert text.startswith("aaa") and text.endswith("end") and "1,003" in text


def test_values_that_cannot_be_written_are_described() -> None:
    assert shown("a" * 100, 10) == "'aaaaaaaa…"
    assert "5001 bits" in shown(1 << 5000)


def test_the_nearest_name_is_suggested() -> None:
    assert "'seed'" in nearest("sed", ["seed", "model"])


def test_a_missing_file_names_few_others() -> None:
    assert "'rows.jsonl'" in nearest_files("row.jsonl", ["rows.jsonl", "notes.txt"])
    many = [f"rows-{number:06}.jsonl" for number in range(5000)]
    assert len(nearest_files("rows-000001.json", many)) <= 80
    assert "5000" in nearest_files("zzz", many) and "'" not in nearest_files("zzz", many)
    assert "'" not in nearest_files(f"{'a' * 200}.json", [f"{'a' * 200}.jsonl"])
