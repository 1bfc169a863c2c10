"""Text of users on a terminal: never read as markup, never able to move the cursor or change
colours.

Everything that is printed goes through this module. Paths, titles, names of columns, models and
rewards, prompts and completions come from files that others may have written. A square bracket in
one is no style of `rich`, and an escape character in one is no command to the terminal. `rich` is
imported when a console is used, so that this module stays light.
"""

from __future__ import annotations

import re
import sys
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
    """`str(text)` with a visible sign for each character that a terminal would obey or hide.

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


def write_rule(
    console: Console, title: object, style: str = "bold", line: str = "rule.line"
) -> None:
    """Print a horizontal line with a title at its left end."""
    console.rule(styled(visible(title), style), align="left", style=line)


def write_table(console: Console, table: Any) -> None:
    """Print something that `rich` draws, such as a table with cells made by `styled`."""
    console.print(table)


def echo(text: object = "", *, error: bool = False) -> None:
    """Print text of several lines to standard output, or to standard error. Characters it
    cannot encode are escaped.
    """
    stream: TextIO = sys.stderr if error else sys.stdout
    value = visible(text, lines=True)
    code = getattr(stream, "encoding", None) or "utf-8"
    print(value.encode(code, "backslashreplace").decode(code), file=stream, flush=error)
