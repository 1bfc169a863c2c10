"""Messages of errors."""

from __future__ import annotations

from posttrain.errors import ConfigError, nearest, shown


def test_a_long_message_keeps_its_ends() -> None:
    text = str(ConfigError("a" * 3000 + "end"))
    assert text.startswith("aaa") and text.endswith("end") and "1,003" in text


def test_values_that_cannot_be_written_are_described() -> None:
    assert shown("a" * 100, 10) == "'aaaaaaaa…"
    assert "5001 bits" in shown(1 << 5000)


def test_the_nearest_name_is_suggested() -> None:
    assert "'seed'" in nearest("sed", ["seed", "model"])
