"""Worked examples in the prompt: given ones, and ones that the model writes itself."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from posttrain.data.rows import rows_of
from posttrain.errors import ConfigError, DataError, shown
from posttrain.registry import searches
from posttrain.search.base import Selection, select
from posttrain.search.dialogue import question_of, rewritten
from posttrain.search.prompting import reasoning, select_reasoned
from posttrain.types import Text

Demonstration = tuple[str, str]
"""A question and its worked answer."""


@searches.register
async def few_shot(
    prompt,
    ask,
    extract,
    problem,
    render,
    *,
    demonstrations: list[dict[str, Any]] | str | None = None,
    num_demonstrations: int = 8,
    separator: str = "\n\n",
) -> Selection:
    """Few-shot prompting: one sample behind demonstrations (Brown et al., arXiv 2005.14165; with
    worked answers chain-of-thought prompting, Wei et al., arXiv 2201.11903).

    In messages a demonstration is a user and an assistant turn behind the system message; in plain
    text its prompt and completion, with the separator behind it. Without demonstrations it is one
    sample. notes: num_demonstrations.

    demonstrations: rows with prompt and completion, or the path of a file of them. A problem must
    not be among them. num_demonstrations: the first of the rows, at most. separator: in plain text.

    Raises:
        ConfigError: a demonstration has the problem's own prompt.
        DataError: a row has no prompt or completion, or a file cannot be read.
    """
    shots = [_shot(row, i) for i, row in enumerate(_rows(demonstrations)[:num_demonstrations])]
    for question, _ in shots:
        if _plain(question) == _plain(question_of(problem)):
            raise ConfigError(
                f"few_shot: the demonstration {shown(question)} is the problem itself, so that its "
                "answer would be shown; take demonstrations from rows that are not evaluated"
            )
    context = render(demonstrated(problem, shots, separator)) if shots else prompt
    candidates = await ask(context)
    return select(candidates, 0, extract, None, num_demonstrations=float(len(shots)))


@searches.register
async def auto_cot(
    prompt,
    ask,
    extract,
    encode,
    problem,
    render,
    *,
    questions: list[str] | str | None = None,
    num_demonstrations: int = 4,
    max_question_tokens: int = 60,
    max_chain_lines: int = 5,
    cue: str = " Let's think step by step.",
    answer_cue: str = "\nTherefore, the answer is",
    max_answer_tokens: int = 32,
    separator: str = "\n\n",
) -> Selection:
    """Automatic chain-of-thought prompting (Zhang et al., arXiv 2210.03493).

    1. The questions fall into num_demonstrations clusters (k-means on counts of character
       trigrams).
    2. Of each cluster the question nearest to the centre whose zero-shot chain is simple becomes a
       demonstration. Chains are `zero_shot_cot` at temperature 0.
    3. The problem is asked behind the demonstrations, with the same cues.

    Every search writes the demonstrations itself: their tokens are in its ledger and its budget
    (note demonstration_tokens). To pay for them once, sample them first and give them to
    `few_shot`. The problem itself is left out of the questions. Without questions it is
    `zero_shot_cot`. notes: num_demonstrations; answers_of_chain as of `zero_shot_cot`.

    questions: without answers, a list or the path of rows with the column prompt.
    num_demonstrations: clusters. max_question_tokens, max_chain_lines: of a simple demonstration; a
    cluster without one in its 3 nearest questions gives none. cue, answer_cue, max_answer_tokens:
    as of `zero_shot_cot`. separator: behind a demonstration in plain text.
    """
    pool = [text for text in _questions(questions) if _plain(text) != _plain(question_of(problem))]
    before = ask.budget.num_tokens
    bounds = (max_question_tokens, max_chain_lines)
    cues = (cue, answer_cue, max_answer_tokens)

    async def shot_of(cluster: Sequence[str]) -> Demonstration | None:
        for question in cluster[:3]:
            if len(encode(question)) > bounds[0] or ask.budget.is_spent:
                continue
            context = render(rewritten(problem, question))
            chain = (await reasoning(context, ask, encode, *cues, temperature=0.0))[-1]
            lines = [line for line in chain.text.splitlines() if line.strip()]
            if chain.ended and len(lines) <= bounds[1] and extract(chain.text) is not None:
                return question, chain.text
        return None

    outcomes = await asyncio.gather(*(shot_of(c) for c in clusters(pool, num_demonstrations)))
    shots = [shot for shot in outcomes if shot is not None]
    spent = float(ask.budget.num_tokens - before)
    context = render(demonstrated(problem, shots, separator)) if shots else prompt
    candidates = await reasoning(context, ask, encode, *cues)
    notes = {"num_demonstrations": float(len(shots)), "demonstration_tokens": spent}
    return select_reasoned(candidates, extract, **notes)


def demonstrated(problem: Text, shots: Sequence[Demonstration], separator: str) -> Text:
    """The problem with demonstrations before it: in messages behind the system message."""
    if isinstance(problem, str):
        return "".join(q + a + separator for q, a in shots) + problem
    start = 1 if problem and problem[0].get("role") == "system" else 0
    turns = []
    for question, answer in shots:
        turns.append({"role": "user", "content": question})
        turns.append({"role": "assistant", "content": answer.strip()})
    return [*problem[:start], *turns, *problem[start:]]


def clusters(texts: Sequence[str], number: int) -> list[list[str]]:
    """Texts in at most `number` groups of similar ones, each from the nearest to its centre on.

    k-means on unit vectors of character trigrams. It begins with the text nearest to the mean, and
    then with that which is farthest from those chosen, so that it needs no random numbers.
    """
    distinct = list(dict.fromkeys(texts))
    if not distinct:
        return []
    vectors = _trigrams(distinct)
    places = [int(np.argmax(vectors @ vectors.mean(0)))]
    while len(places) < min(number, len(distinct)):
        nearest = (vectors @ vectors[places].T).max(1)
        nearest[places] = np.inf
        places.append(int(np.argmin(nearest)))
    centres = vectors[places]
    for _ in range(20):
        group = np.argmax(vectors @ centres.T, axis=1)
        moved = np.stack(
            [
                vectors[group == k].mean(0) if (group == k).any() else centres[k]
                for k in range(len(centres))
            ]
        )
        moved /= np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-12)
        if np.allclose(moved, centres):
            break
        centres = moved
    nearness = vectors @ centres.T
    own = np.argmax(nearness, axis=1)
    # Stable, so that equally near ones stay in the order of the texts.
    ordered = [np.argsort(-nearness[:, k], kind="stable") for k in range(len(centres))]
    groups = [[int(i) for i in order if own[i] == k] for k, order in enumerate(ordered)]
    return [[distinct[i] for i in group] for group in groups if group]


def _trigrams(texts: Sequence[str]) -> np.ndarray:
    """Unit vectors [texts, distinct trigrams] of the texts' trigrams."""
    columns: dict[str, int] = {}
    rows = []
    for text in texts:
        padded = f"  {text} "
        grams = (padded[i : i + 3] for i in range(len(padded) - 2))
        rows.append([columns.setdefault(gram, len(columns)) for gram in grams])
    counts = np.zeros((len(texts), len(columns)))
    for row, places in zip(counts, rows, strict=True):
        np.add.at(row, places, 1.0)
    norms: Any = np.linalg.norm(counts, axis=1, keepdims=True)
    return counts / norms


def _plain(text: str) -> str:
    """A text without what white space may differ by."""
    return " ".join(text.split())


@functools.lru_cache(maxsize=8)
def _file_rows(path: str, modified: int) -> tuple[dict[str, Any], ...]:
    return tuple(rows_of(path))


def _rows(given: list[Any] | str | None) -> Sequence[Any]:
    """Rows in memory, or of a file, which is read once for all searches of a run."""
    if not given:
        return []
    if not isinstance(given, str):
        return given
    place = Path(given).expanduser()
    return _file_rows(given, place.stat().st_mtime_ns if place.exists() else 0)


def _questions(given: list[str] | str | None) -> list[str]:
    """The questions of a list or of a file's rows."""
    texts = []
    for number, row in enumerate(_rows(given)):
        text = row.get("prompt") if isinstance(row, Mapping) else row
        if not isinstance(text, str | list) or not text:
            raise DataError(
                f"auto_cot: question {number} is {shown(row)}; it must be text, or a row with the "
                "column prompt"
            )
        texts.append(question_of(text))
    return texts


def _shot(row: Any, number: int) -> Demonstration:
    """A row as question and answer."""
    parts = [row.get(c) if isinstance(row, Mapping) else None for c in ("prompt", "completion")]
    prompt, completion = parts
    if not (isinstance(prompt, str | list) and prompt and isinstance(completion, str | list)):
        raise DataError(
            f"few_shot: demonstration {number} is {shown(row)}; it must have a prompt and a "
            "completion, each text or messages"
        )
    answer = completion if isinstance(completion, str) else str(completion[-1].get("content", ""))
    return question_of(prompt), answer
