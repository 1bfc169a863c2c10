"""Rows that teach a model to revise, from samples with verdicts."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from posttrain.config import DataLike
from posttrain.data.rows import Row, rows_of
from posttrain.errors import ConfigError, DataError, shown
from posttrain.search.dialogue import question_of
from posttrain.search.revision import revision_context
from posttrain.types import Text, plain_text


def revision_rows(
    samples: DataLike,
    *,
    min_reward: float = 1.0,
    max_attempts: int = 4,
    instruction: str = "There may be a mistake in this answer. Try again.\n{problem}",
    seed: int = 0,
) -> list[Row]:
    """Rows of a revision model: wrong attempts in the prompt, a right one as completion (Snell et
    al., arXiv 2408.03314, section 6.1).

        rows = pt.revision_rows(pt.sample(model, task, num_generations=16))
        pt.fit(model, pt.sft(rows))
        pt.evaluate(model, task, search=pt.strategy.revise(num_samples=8))

    Each distinct right sample makes one row. Their number of wrong attempts is drawn from 0 to
    max_attempts, as far as there are that many distinct ones; the last is the one nearest to the
    right sample by edit distance, and the others are drawn. So the model learns to change what is
    wrong, not to begin anew. Problems without a right sample make no row.

    Args:
        samples: rows with prompt, completion and reward, as `pt.sample` writes them. Rows with the
            same prompt belong together.
        min_reward: least reward of a right sample; those below are wrong.
        max_attempts: wrong attempts in a prompt, at most; max_context_attempts of `revise`.
        instruction: stands behind an attempt; the same as of `revise`.
        seed: of what is drawn.

    Raises:
        ConfigError: max_attempts below 1. DataError: a row lacks a column, or no sample is right.
    """
    if max_attempts < 1:
        raise ConfigError(f"revision_rows: max_attempts is {max_attempts}; it must be at least 1")
    draw = random.Random(seed)
    rows: list[Row] = []
    groups = _groups(rows_of(samples), min_reward)
    for prompt, right, wrong in groups:
        for completion in right:
            number = min(draw.randint(0, max_attempts), len(wrong))
            attempts: list[str] = []
            if number:
                nearest = min((edit_distance(text, completion), text) for text in wrong)[1]
                others = [text for text in wrong if text != nearest]
                attempts = [*draw.sample(others, number - 1), nearest]
            context = revision_context(prompt, attempts, instruction, max_attempts)
            target: Text = completion
            if not isinstance(prompt, str):
                target = [{"role": "assistant", "content": completion}]
            rows.append({"prompt": context, "completion": target})
    if not rows:
        raise DataError(
            f"revision_rows: none of the samples of {len(groups)} problems has a reward of at "
            f"least {min_reward:g}; sample more of each, or lower min_reward"
        )
    return rows


def edit_distance(first: str, second: str) -> int:
    """Levenshtein's distance: insertions, deletions and replacements of characters.

    >>> edit_distance("kitten", "sitting")
    3
    """
    columns = np.array([ord(c) for c in second], dtype=np.int64)
    steps = np.arange(len(second) + 1)
    row = steps
    for i, character in enumerate(first, 1):
        replaced = row[:-1] + (columns != ord(character))
        best = np.concatenate([[i], np.minimum(replaced, row[1:] + 1)])
        # An insertion costs 1 per column: the least of best[k] + (j - k) over k <= j.
        row = np.minimum.accumulate(best - steps) + steps
    return int(row[-1])


def _groups(samples: list[Row], min_reward: float) -> list[tuple[Text, list[str], list[str]]]:
    """Prompt, distinct right completions and distinct wrong ones of each problem, in order."""
    groups: dict[str, tuple[Text, dict[str, None], dict[str, None]]] = {}
    for number, row in enumerate(samples):
        prompt, completion, reward = (row.get(c) for c in ("prompt", "completion", "reward"))
        text: Any = completion
        if isinstance(completion, list) and completion:
            text = question_of(completion[-1:])
        is_number = isinstance(reward, int | float)
        if not (isinstance(prompt, str | list) and isinstance(text, str) and is_number):
            raise DataError(
                f"revision_rows: row {number} is {shown(row)}; it must have prompt, completion and "
                "reward, as pt.sample writes them"
            )
        group = groups.setdefault(plain_text(prompt), (prompt, {}, {}))
        assert isinstance(reward, int | float)
        completions = group[1] if reward >= min_reward else group[2]
        completions[text] = None
    return [(prompt, list(right), list(wrong)) for prompt, right, wrong in groups.values()]
