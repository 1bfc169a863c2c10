"""Text of users is shown as text; lines are redrawn only where the terminal can."""

from __future__ import annotations

import io
import sys
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

from posttrain.terminal import NotebookLine, echo, is_live, styled, visible, write, write_wrapped


def test_control_characters_become_signs() -> None:
    assert visible("a\x1b[0m\n\x7f", lines=True) == "a␛[0m\n␡"
    assert visible("a\nb\u202e") == "a␊b\\u202e"
    assert visible("👩\u200d🔬") == "👩\u200d🔬"


def test_brackets_are_no_markup() -> None:
    file = io.StringIO()
    write(Console(file=file, width=20), "a[/bold]b", " [red]x", styled("[i]"))
    assert file.getvalue() == "a[/bold]b [red]x[i]\n"


def test_echo_escapes_what_the_stream_cannot_encode(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="ascii"))
    echo("é\x1b")
    sys.stdout.flush()
    assert raw.getvalue() == b"\\xe9\\u241b\n"


@pytest.mark.parametrize(
    ("environ", "live"),
    [({"TERM": "xterm-256color"}, True), ({"TERM": "dumb"}, False), ({"NO_COLOR": "1"}, False)],
)
def test_live_only_on_a_terminal_that_redraws(environ: dict[str, str], live: bool) -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    assert is_live(Console(file=file, force_terminal=True, _environ=environ)) == live
    assert not is_live(Console(file=file, force_terminal=False, _environ=environ))


def test_latin_terminals_get_plain_lines() -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    assert not is_live(Console(file=file, force_terminal=True, _environ={"TERM": "xterm"}))


def test_fast_updates_of_a_notebook_are_skipped_but_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown: list[str] = []

    class Handle:
        def update(self, value: object) -> None:
            shown.append(repr(value))

    def display(value: object, *, display_id: bool) -> Handle:
        shown.append(repr(value))
        return Handle()

    module: Any = ModuleType("IPython.display")
    module.display = display
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setattr(NotebookLine, "SECONDS", 3600.0)
    line = NotebookLine()
    line.update("first")
    line.update("skipped")
    line.update("last\x1b", last=True)
    assert shown == ["first", "last␛"]


def test_a_sentence_is_wrapped_at_words() -> None:
    file = io.StringIO()
    write_wrapped(Console(file=file, width=40), f"  {'word ' * 12}end")
    lines = file.getvalue().splitlines()
    assert len(lines) > 1 and all(len(line) <= 40 for line in lines)
    assert lines[0].startswith("  word") and lines[1].startswith("    word")
