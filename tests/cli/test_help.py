"""The pages of --help."""

from __future__ import annotations

from typing import Any

import pytest

from posttrain.cli import main
from posttrain.cli.help import default_text, described, overview, reflowed, summary
from posttrain.config import SamplingConfig
from posttrain.registry import REQUIRED, advantages


def test_help_groups_commands_and_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    page = capsys.readouterr().out
    assert all(f"\n  {name} " in page for name in ("run", "sft", "grpo", "eval", "chat", "ls"))
    assert len(page.splitlines()) < 100 and max(map(len, page.splitlines())) <= 80
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


def test_long_texts_are_cut_at_a_clause_or_wrapped() -> None:
    assert described("short", 5) == ["short"]
    assert described("a clause: and what follows it", 12) == ["a clause"]
    assert described("one two three four five", 16) == ["one two three", "four five"]
    page = overview([("recipes", "run", f"{'word ' * 40}end")])
    assert page.count("word") == 40 and all(len(line) <= 100 for line in page.splitlines())


def test_only_groups_with_commands_have_a_heading() -> None:
    page = overview([("evaluate", "eval", "Measure a model.")])
    assert "evaluate:\n  eval  Measure a model.\n" in page
    assert "make data:" not in page


def test_a_summary_keeps_its_formula_whole() -> None:
    doc = "Centred by the mean (arXiv 1): A_i = (r_i - mean(r)) / (std(r) + eps). More."
    assert summary(doc) == "Centred by the mean: A_i = (r_i - mean(r)) / (std(r) + eps)"
    assert summary("Rows (a file): read. More.") == "Rows: read"
    for entry in advantages.entries().values():
        text = summary(entry.doc)
        assert text.count("(") == text.count(")") and not text.endswith(("/", "="))


def test_a_docstring_keeps_its_formulas_when_it_is_wrapped() -> None:
    full = f"{'word ' * 18}end"
    doc = f"{full}\nlonger\n\n  a = b\n  c = d\n  {full}\n      longer\nlast"
    rows = reflowed(doc, 40).split("\n")
    assert all(len(row) <= 40 for row in rows)
    assert rows[2].endswith("end longer") and {"  a = b", "  c = d", "last"} <= set(rows)
    assert any(row.startswith("      ") and row.endswith("longer") for row in rows)
    assert reflowed("  x\ny", 80) == "  x\ny"
