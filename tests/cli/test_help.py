"""The pages of --help."""

from __future__ import annotations

from typing import Any

import pytest

from posttrain.cli import main
from posttrain.cli.help import default_text, overview, shortened, summary
from posttrain.config import SamplingConfig
from posttrain.registry import REQUIRED


def test_help_groups_commands_and_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    page = capsys.readouterr().out
    assert all(f"\n  {name} " in page for name in ("run", "sft", "grpo", "eval", "chat", "ls"))
    assert len(page.splitlines()) < 60 and max(map(len, page.splitlines())) <= 80
    with pytest.raises(SystemExit):
        main(["dpo", "--help"])
    page = capsys.readouterr().out
    for key in ("model.dtype=auto", "data.max_length=null", "beta=0.1", "learning_rate=1e-06"):
        assert f"  {key}" in page, key
    assert max(map(len, page.splitlines())) <= 80
    assert main(["explain", "settings", "lora"]) == 0
    assert "rank of the adapters" in capsys.readouterr().out
    assert main(["explain", "settings", "lorra"]) == 2


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (REQUIRED, "..."),
        (None, "null"),
        (True, "true"),
        (2e-05, "2e-05"),
        (3, "3"),
        ("auto", "auto"),
        ("\n", repr("\n")),
        ((1, "a"), "[1, a]"),
        ({"name": "kl", "weight": 0.1}, "kl"),
        (SamplingConfig(), "{}"),
    ],
)
def test_defaults_are_written_as_in_a_recipe(value: Any, expected: str) -> None:
    assert default_text(value) == expected


def test_a_summary_is_one_sentence_without_remarks() -> None:
    assert summary("Train it (arXiv 1234)\nwell. Then more.\n\nArgs:\n x") == "Train it well"


def test_long_texts_are_cut_at_a_clause_or_a_word() -> None:
    assert shortened("short", 5) == "short"
    assert shortened("a clause: and what follows it", 12) == "a clause"
    assert shortened("one two three four five six", 16) == "one two ..."


def test_only_groups_with_commands_have_a_heading() -> None:
    page = overview([("evaluate", "eval", "Measure a model.")])
    assert "evaluate:\n  eval  Measure a model.\n" in page
    assert "make data:" not in page
