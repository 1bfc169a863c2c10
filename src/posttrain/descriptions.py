"""What a docstring says of each field or setting: text of the form "name: meaning".

Two forms are read: a section "Args:" or "Attributes:" with one entry a line, and sentences such as
"r: rank. alpha: scale." or "mix_data, mix_task: rows to mix in." anywhere in the text.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection


def descriptions(doc: str, names: Collection[str]) -> dict[str, str]:
    """The meaning of each name that the docstring explains, on one line.

    Args:
        doc: the docstring. names: fields or settings to look for.

    >>> descriptions("Adapters. r: rank. alpha, beta: scales, of\\nboth kinds.", ["r", "alpha"])
    {'r': 'rank', 'alpha': 'scales, of both kinds'}
    """
    text = _without_indents(doc)
    if not names:
        return {}
    entries = list(_entry_pattern(names).finditer(text))
    ends = [match.start() for match in entries[1:]] + [len(text)] * bool(entries)
    meanings: dict[str, str] = {}
    for match, end in zip(entries, ends, strict=True):
        meaning = _one_line(text[match.end() : end])
        for name in re.split(r"\s*,\s*", match["names"]):
            meanings.setdefault(name, meaning)
    return {name: meanings[name] for name in names if meanings.get(name)}


def first_sentence(text: str) -> str:
    """The text up to the end of its first sentence; abbreviations do not end one.

    >>> first_sentence("share of rows, e.g. 0.1. Above it the run stops.")
    'share of rows, e.g. 0.1'
    """
    end = re.search(r"(?<!e\.g)(?<!i\.e)(?<!etc)\.(?:\s|$)", text)
    return (text if end is None else text[: end.start()]).strip()


def _entry_pattern(names: Collection[str]) -> re.Pattern[str]:
    """An entry starts at a line's start, or after the end of a sentence or clause."""
    longest_first = sorted(names, key=len, reverse=True)
    one = "|".join(map(re.escape, longest_first))
    return re.compile(rf"(?:^|(?<=[.;)]\s))(?P<names>(?:{one})(?:\s*,\s*\w+)*):\s", re.MULTILINE)


def _without_indents(doc: str) -> str:
    lines = inspect.cleandoc(doc).splitlines()
    return "\n".join(line.strip() for line in lines)


def _one_line(text: str) -> str:
    """The first paragraph of an entry. Its end is an empty line or another section's header."""
    paragraph = re.split(r"\n\s*\n|\n(?:Returns|Raises|Args|Attributes):", text.strip())[0]
    return " ".join(paragraph.split()).rstrip(".")


def mentions(doc: str, names: Collection[str]) -> dict[str, str]:
    """The first sentence that mentions each name, for docstrings without entries."""
    sentences = {name: _sentence_with(name, _without_indents(doc)) for name in names}
    return {name: sentence for name, sentence in sentences.items() if sentence}


def _sentence_with(name: str, text: str) -> str:
    """The first sentence of the prose that mentions a name, without examples of settings."""
    for paragraph in re.split(r"\n\s*\n", text):
        for sentence in re.split(r"(?<=[.])\s+(?=[A-Z])", " ".join(paragraph.split())):
            mentioned = re.search(rf"(?<![\w.\[{{]){re.escape(name)}\b(?!:)", sentence)
            if mentioned and len(sentence) < 200 and "{" not in sentence:
                return sentence.rstrip(".")
    return ""
