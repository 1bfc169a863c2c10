"""Output on a terminal or in a notebook.

Everything that is printed goes through this module. Paths, titles, names of columns, models and
rewards, prompts and completions come from files that others may have written. So text is never
read as `rich` markup (square brackets stay brackets), and never sent as a command to the terminal
(an escape character becomes a visible sign). `rich` is imported when a console is used, so that
this module stays light.
"""

from __future__ import annotations

import re
import sys
import textwrap
import time
import unicodedata
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_CODE = {"\x7f": "␡", **{chr(i): chr(0x2400 + i) for i in range(32)}}
# Control and format characters (bidirectional overrides, zero width), surrogates, and separators
# that break lines.
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
# Joins of emoji and of several scripts: they belong to text and change nothing around it.
_JOINERS = {"\u200c", "\u200d"}
_PLAIN = re.compile(r"[ -~]*")


def visible(text: object, *, lines: bool = False) -> str:
    """`str(text)` with a visible sign for each character that a terminal would execute or hide.

    ASCII control characters become their Unicode pictures (escape is ␛), others their escape
    sequence (\\u202e).

    Args:
        lines: keep line feeds, for text of several lines.

    >>> visible("a\\x1b[31mb")
    'a␛[31mb'
    """
    value = str(text)
    if _PLAIN.fullmatch(value):
        return value
    return "".join(_sign(c, lines) for c in value)


def _sign(character: str, lines: bool) -> str:
    if character == "\n" and lines:
        return character
    if unicodedata.category(character) not in _HIDDEN or character in _JOINERS:
        return character
    return _CODE.get(character) or character.encode("unicode_escape", "surrogatepass").decode(
        "ascii"
    )


def styled(text: object, style: str = "") -> Text:
    """Text for a console or a cell of a table: its characters visible, its brackets no markup."""
    from rich.text import Text

    return Text(visible(text, lines=True), style=style)


def write(console: Console, *parts: object, style: str = "") -> None:
    """Print a line on a console. Parts that are `rich` text keep their styles; all others are
    printed by `styled`.

    Lines are not folded: a path in them can be copied.
    """
    from rich.text import Text

    line = Text(style=style)
    for part in parts:
        line.append_text(part if isinstance(part, Text) else styled(part))
    console.print(line, soft_wrap=True, highlight=False)


def write_wrapped(console: Console, text: str, style: str = "") -> None:
    """Print a sentence in lines that fit the console, for text without paths."""
    indent = len(text) - len(text.lstrip())
    later = " " * (indent + 2)
    for line in textwrap.wrap(text, max(console.width, 40), subsequent_indent=later):
        write(console, line, style=style)


def write_rule(
    console: Console, title: object, style: str = "bold", line: str = "rule.line"
) -> None:
    """Print a horizontal line with a title at its left end."""
    console.rule(styled(visible(title), style), align="left", style=line)


def write_table(console: Console, table: Any) -> None:
    """Print a `rich` table or panel, whose cells come from `styled`."""
    console.print(table)


def is_live(console: Console) -> bool:
    """Whether lines can be redrawn in place: a terminal with colours and Unicode."""
    redraws = console.is_terminal and not console.is_dumb_terminal and not console.is_jupyter
    return redraws and not console.no_color and console.encoding.lower().startswith("utf")


class NotebookLine:
    """A line below a notebook's cell that is replaced by the next one.

    Updates closer together than a quarter of a second are skipped, but for the last.
    """

    SECONDS = 0.25

    def __init__(self) -> None:
        self._handle: Any = None
        self._updated = 0.0

    def update(self, text: str, *, last: bool = False) -> None:
        """Show `text` in place of the line before. last: never skip it."""
        now = time.monotonic()
        if self._handle is not None and not last and now - self._updated < self.SECONDS:
            return
        self._updated = now
        from IPython.display import display

        line = _PlainLine(visible(text))
        if self._handle is None:
            self._handle = display(line, display_id=True)
        else:
            self._handle.update(line)


class _PlainLine:
    """Text that a notebook shows as it is, without quotes."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def echo(text: object = "", *, error: bool = False) -> None:
    """Print text of several lines to standard output, or to standard error. Characters it
    cannot encode are escaped.
    """
    stream: TextIO = sys.stderr if error else sys.stdout
    value = visible(text, lines=True)
    code = getattr(stream, "encoding", None) or "utf-8"
    print(value.encode(code, "backslashreplace").decode(code), file=stream, flush=error)
