"""Rows that teach a model to answer as shortly as it already can: long-to-short training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from posttrain.config import DataLike
from posttrain.data.rows import Row, rows_of
from posttrain.errors import DataError, shown
from posttrain.types import Text, plain_text


def short_rows(
    samples: DataLike,
    *,
    kind: Literal["completions", "pairs"] = "completions",
    min_reward: float = 1.0,
    min_right: int = 2,
    length: Callable[[str], int] = len,
) -> list[Row]:
    """Rows from samples with verdicts: the shortest right one of each prompt (Kimi k1.5's
    shortest rejection sampling and long2short DPO, arXiv 2501.12599; arXiv 2412.21187).

        rows = pt.short_rows(pt.sample(model, task, num_generations=16), kind="pairs")
        pt.fit(model, pt.dpo(rows))

    completions: prompt and the shortest right sample, for `pt.sft`. pairs: the shortest right
    sample as chosen, and as rejected the longest other sample that is at least as long, wrong ones
    among them only where no right one is longer; for `pt.dpo`. Of samples that are equally long the
    first counts.

    Args:
        samples: rows with prompt, completion and reward, as `pt.sample` writes them. Rows with the
            same prompt belong together.
        kind: what the rows hold.
        min_reward: least reward of a right sample.
        min_right: right samples that a prompt must have, so that a lucky one is not imitated.
        length: of a text; characters, or tokens by a tokenizer of yours.

    Raises:
        DataError: a row lacks a column, or no prompt gives a row.
    """
    rows: list[Row] = []
    groups = _groups(rows_of(samples))
    for prompt, some in groups:
        right = [text for text, reward in some if reward >= min_reward]
        if len(right) < min_right:
            continue
        shortest = min(right, key=length)
        if kind == "completions":
            rows.append({"prompt": prompt, "completion": _as_completion(prompt, shortest)})
            continue
        longer = _longer(shortest, right, [text for text, _ in some], length)
        if longer is not None:
            chosen, rejected = (_as_completion(prompt, text) for text in (shortest, longer))
            rows.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    if not rows:
        raise DataError(
            f"short_rows: none of {len(groups)} prompts has {min_right} samples of a reward of at "
            f"least {min_reward:g}{' and a longer one' * (kind == 'pairs')}; sample more of each, "
            "or lower min_right"
        )
    return rows


def _longer(
    shortest: str, right: Sequence[str], every: Sequence[str], length: Callable[[str], int]
) -> str | None:
    """The longest right sample that is longer, else the longest wrong one that is not shorter."""
    longest = max(right, key=length)
    if length(longest) > length(shortest):
        return longest
    wrong = [t for t in every if t not in right and length(t) >= length(shortest)]
    return max(wrong, key=length) if wrong else None


def _as_completion(prompt: Text, text: str) -> Text:
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]


def _groups(samples: Sequence[Row]) -> list[tuple[Text, list[tuple[str, float]]]]:
    """Prompt and its samples with their rewards, in order."""
    groups: dict[str, tuple[Text, list[tuple[str, float]]]] = {}
    for number, row in enumerate(samples):
        prompt, completion, reward = (row.get(c) for c in ("prompt", "completion", "reward"))
        text: Any = completion
        if isinstance(completion, list) and completion:
            text = completion[-1].get("content")
        is_number = isinstance(reward, int | float)
        if not (isinstance(prompt, str | list) and isinstance(text, str) and is_number):
            raise DataError(
                f"short_rows: row {number} is {shown(row)}; it must have prompt, completion and "
                "reward, as pt.sample writes them"
            )
        assert isinstance(reward, int | float)
        groups.setdefault(plain_text(prompt), (prompt, []))[1].append((text, float(reward)))
    return list(groups.values())
