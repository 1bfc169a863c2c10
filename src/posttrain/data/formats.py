"""Which format the rows of a data set have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from posttrain.data.item import Item, Row
from posttrain.data.row_readers import READERS
from posttrain.errors import DataError


@dataclass(frozen=True, slots=True)
class RowFormat:
    """A format by name. reason: the columns that make it."""

    name: str
    reason: str


# Format and the columns that make it. The first format whose columns are all there is taken, so
# that formats with more columns come first.
_FORMATS: list[tuple[str, frozenset[str]]] = [
    ("verl", frozenset({"prompt", "reward_model"})),
    ("stepwise", frozenset({"prompt", "completions", "labels"})),
    ("listwise", frozenset({"prompt", "completions", "rewards"})),
    ("listwise", frozenset({"prompt", "completions", "scores"})),
    ("listwise", frozenset({"prompt", "completions", "ranks"})),
    ("step preference", frozenset({"prompt", "initial_reason_steps", "chosen", "rejected"})),
    ("step preference", frozenset({"prompt", "full_chosen", "full_rejected"})),
    ("triple preference", frozenset({"prompt", "chosen", "rejected", "reference"})),
    ("alpaca preference", frozenset({"instruction", "chosen", "rejected"})),
    ("sharegpt preference", frozenset({"conversations", "chosen", "rejected"})),
    ("preference", frozenset({"chosen", "rejected"})),
    ("messages preference", frozenset({"chosen_messages", "rejected_messages"})),
    ("alpaca unpaired preference", frozenset({"instruction", "output", "kto_tag"})),
    ("unpaired preference", frozenset({"prompt", "completion", "label"})),
    ("rewarded", frozenset({"prompt", "completion", "reward"})),
    ("prompt-completion", frozenset({"prompt", "completion"})),
    ("alpaca", frozenset({"instruction", "output"})),
    ("sharegpt unpaired preference", frozenset({"conversations", "kto_tag"})),
    ("messages unpaired preference", frozenset({"messages", "label"})),
    ("sharegpt", frozenset({"conversations"})),
    ("messages", frozenset({"messages"})),
    ("question-answer", frozenset({"question", "answer"})),
    ("prompt-only", frozenset({"prompt"})),
    ("text", frozenset({"text"})),
]


def detect_format(rows: Sequence[Row]) -> RowFormat:
    """The format of a data set, by the columns of its first 50 rows.

    Raises:
        DataError: no format has these columns; lists them and the nearest formats.
    """
    columns = {key for row in rows[:50] for key, value in row.items() if value is not None}
    for name, needed in _FORMATS:
        if needed <= columns and _has_verdicts(name, rows[:50]):
            others = sorted(columns - needed)
            more = f"; other columns: {', '.join(others)}" if others else ""
            return RowFormat(name, f"columns {', '.join(sorted(needed))}{more}")
    plain = ("prompt-completion", "messages", "preference", "text")
    near = sorted(_FORMATS, key=lambda item: (-len(item[1] & columns), item[0] not in plain))
    accepted = "; ".join(f"{name}: {', '.join(sorted(needed))}" for name, needed in near[:3])
    listed = ", ".join(sorted(str(c)[:30] for c in columns)[:6]) or "(none)"
    more = f" and {len(columns) - 6} more" if len(columns) > 6 else ""
    raise DataError(
        f"no format has the columns {listed}{more}. The nearest are {accepted}. Rename columns "
        "with data.columns, such as {prompt: input, completion: target}"
    )


def _has_verdicts(name: str, rows: Sequence[Row]) -> bool:
    """Whether the labels of conversations are verdicts, and not classes of some other task."""
    if name != "messages unpaired preference":
        return True
    return all(isinstance(row.get("label"), bool) for row in rows)


# Formats without a completion to imitate, and what they are for.
_NOT_IMITATED = {
    "stepwise": "labelled steps train a process model: method reward_model",
}
_PROMPTS = ("prompt-only", "verl")


def rows_to_imitate(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that fine-tuning imitates: of unpaired preferences the desirable ones, else all.

    Raises:
        DataError: the format has no completion to imitate, or no row is desirable.
    """
    form = format_to_imitate(rows)
    desirable = [row for row in rows if to_imitate(row, form)]
    if not desirable:
        raise DataError(
            f"the rows are of format {form.name} and none is desirable, so there is nothing to "
            "imitate"
        )
    return desirable


def to_imitate(row: Row, form: RowFormat) -> bool:
    """Whether fine-tuning imitates a row: one that is not labelled undesirable."""
    return "unpaired" not in form.name or row.get("label", row.get("kto_tag")) not in (False, 0)


def format_to_imitate(rows: Sequence[Row]) -> RowFormat:
    """The format of rows, which must have a completion to imitate.

    Raises:
        DataError: the format has none; says which method reads it.
    """
    form = detect_format(rows)
    use = _NOT_IMITATED.get(form.name)
    if "preference" in form.name and "unpaired" not in form.name:
        use = "pairs are for method dpo"
    if form.name in _PROMPTS:
        use = _use_of_prompts(rows)
    if use is not None:
        raise DataError(
            f"the rows are of format {form.name} ({form.reason}), without a completion to learn "
            f"from; {use}"
        )
    return form


def _use_of_prompts(rows: Sequence[Row]) -> str:
    """What prompts are for; without answers there must be a reward that reads none."""
    answered = all(row.get("answer") is not None or "reward_model" in row for row in rows)
    rewards = "" if answered else " and rewards: [...] of functions that read no answer"
    return (
        "sample completions of prompts with method grpo: task: {name: jsonl, path: FILE}" + rewards
    )


def normalise(row: Row, form: RowFormat, name: str) -> Item:
    """A row in one shape.

    Args:
        name: of the row, for messages.
    Raises:
        DataError: a column of the wrong type, or empty where text is needed.
    """
    try:
        return READERS[form.name](row, name)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        reason = str(error)[:200]
        raise DataError(
            f"row {name}: not a {form.name} row ({type(error).__name__}: {reason})"
        ) from error
