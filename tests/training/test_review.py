"""`check` and `preview` show what `fit` would do, and load no weights."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from support import without_weights

import posttrain as pt
from posttrain.errors import ConfigError, DataError
from posttrain.training.review import write_facts

ROWS = [{"prompt": f"{i}+1=", "completion": f" {i + 1}"} for i in range(10)]


@pytest.fixture(autouse=True)
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    without_weights(monkeypatch)


def console() -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, width=120), text


def test_facts_are_shown_and_returned(tiny_folder: Path) -> None:
    out, text = console()
    facts = pt.check(tiny_folder, pt.sft(ROWS, batch_size=5), steps=4, console=out)
    assert facts and all(isinstance(v, str) for v in facts.values())
    for name in facts:
        assert name in text.getvalue()
    assert "10" in " ".join(facts.values())


def test_check_refuses_what_fit_refuses(tiny_folder: Path) -> None:
    pairs = [{"prompt": "a", "chosen": "b", "rejected": "c"}] * 4
    with pytest.raises(DataError, match="nothing"):
        pt.check(tiny_folder, pt.sft([{"prompt": "a", "nothing": "b"}]))
    with pytest.raises(ConfigError, match="cache_reference"):
        pt.check(tiny_folder, pt.dpo(pairs, cache_reference=True, reference_every=2))


def test_rows_are_previewed(tiny_folder: Path) -> None:
    out, text = console()
    pt.preview(tiny_folder, pt.sft(ROWS), 2, console=out)
    assert text.getvalue().count(" trained ──") == 2
    assert "0+1=" in text.getvalue().replace("\n", "")


def test_a_method_that_samples_has_nothing_to_preview(tiny_folder: Path) -> None:
    plan = pt.grpo(pt.make_task([{"prompt": "a"}]), rewards=["length"])
    with pytest.raises(ConfigError, match="grpo"):
        pt.preview(tiny_folder, plan)


def test_facts_stand_in_two_columns() -> None:
    out, text = console()
    write_facts(out, [("a", "1"), ("longer", "2")])
    assert text.getvalue().splitlines() == ["  a       1", "  longer  2"]
