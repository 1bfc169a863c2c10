"""Rows that a language model writes for a pool, and which of them are rejected."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from posttrain.labellers.base import Row

PROMPT = (
    "Examples:\n{listed}\n\nWrite one more text of this kind that differs from all of these.\nText:"
)
MAX_SIMILARITY = 0.7
_TRIES = 3


def proposed(
    ask: Callable[[Sequence[str]], Sequence[str]],
    rows: Sequence[Row],
    rng: Any,
    *,
    num: int,
    column: str = "text",
    prefix: str = "proposed",
    num_shown: int = 5,
    max_similarity: float = MAX_SIMILARITY,
    prompt: str = PROMPT,
) -> list[Row]:
    """At most `num` new rows, in short what APE and its kin do: write queries from examples, then
    reject (described in arXiv 2502.11767, section 3.1.3).

    A text is rejected that is empty, or whose words overlap with those of a row or of an earlier
    proposal: J(a, b) = |a and b| / |a or b| > max_similarity. There are three tries for each row
    that is asked for. Selectors then choose among proposals as among other rows, so that those on
    which a committee agrees are passed over; `min_confidence` and the labeller noise_al reject by
    label.

    Args:
        ask: questions -> answers. rows: of the pool. rng: draws the examples.
        column: of the text. prefix: of the ids. num_shown: examples in a question.
        prompt: the question, with {listed}.
    """
    known = [_words(str(row[column])) for row in rows if isinstance(row.get(column), str)]
    made: list[Row] = []
    for _ in range(_TRIES):
        missing = num - len(made)
        if missing < 1:
            break
        questions = [_question(rows, rng, column, num_shown, prompt) for _ in range(missing)]
        for answer in ask(questions):
            text = answer.strip().partition("\n")[0].strip()
            words = _words(text)
            if not words or any(_overlap(words, other) > max_similarity for other in known):
                continue
            known.append(words)
            made.append({"id": f"{prefix}-{len(made)}", column: text})
    return made


def _question(rows: Sequence[Row], rng: Any, column: str, num_shown: int, prompt: str) -> str:
    places = rng.permutation(len(rows))[:num_shown]
    listed = "\n".join(f"Text: {' '.join(str(rows[int(i)][column]).split())}" for i in places)
    return prompt.replace("{listed}", listed)


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.casefold()))


def _overlap(a: frozenset[str], b: frozenset[str]) -> float:
    return len(a & b) / len(a | b)
