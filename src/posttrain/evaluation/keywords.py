"""Probes of a domain's keywords: a held-out text up to a keyword, and the keyword."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from posttrain.data.similarity import keywords

_PROBES = 32  # of each domain
_CHARACTERS = 160  # before a keyword
_LEAST = 20  # characters before a keyword, without which nothing leads to it


def keyword_rows(
    train: Mapping[str, Sequence[str]], held_out: Mapping[str, Sequence[str]], num: int
) -> dict[str, list[dict[str, str]]]:
    """Rows of prompt and completion in which the completion is a keyword of the domain.

    Keywords are those of the parts to train on, their places those of the held-out parts, so that
    the rank of a keyword says what was learnt of the domain.

    Args:
        train, held_out: documents by domain. num: keywords of each domain; 0 gives no rows.
    Returns:
        rows by domain; none for a domain whose held-out part has no keyword.
    """
    found = keywords(train, num)
    return {name: _probes(held_out[name], words) for name, words in found.items()}


def _probes(texts: Sequence[str], words: Sequence[str]) -> list[dict[str, str]]:
    if not words:
        return []
    anywhere = re.compile(rf"(?<= )(?:{'|'.join(map(re.escape, words))})\b", re.IGNORECASE)
    rows = []
    for text in texts:
        for match in anywhere.finditer(text):
            prompt = text[max(0, match.start() - _CHARACTERS) : match.start()]
            if len(prompt) < _LEAST:
                continue
            # The blank belongs to the keyword, as tokenizers cut it.
            rows.append({"prompt": prompt.removesuffix(" "), "completion": f" {match.group()}"})
            if len(rows) == _PROBES:
                return rows
    return rows
