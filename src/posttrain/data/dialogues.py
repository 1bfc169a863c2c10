"""Whole dialogues as chosen and rejected, as in the HH data: what they share is the prompt."""

from __future__ import annotations

from dataclasses import replace

from posttrain.data.item import Item
from posttrain.errors import DataError

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
"""Where a turn begins in a dialogue that is one text (Anthropic's HH data, arXiv 2204.05862)."""


def with_shared_prompt(item: Item) -> Item:
    """A pair with a prompt; where it has none, the prompt is what both dialogues begin with.

    Of two texts the prompt ends behind the last "\\n\\nAssistant:" of their common beginning, so
    that each completion is the last answer. Messages have been divided when the row was read.

    Raises:
        DataError: there is no common beginning, an answer is empty, or a dialogue goes on after
            the answer in which they differ.
    """
    if item.prompt is not None:
        return item
    chosen, rejected = item.chosen, item.rejected
    if not isinstance(chosen, str) or not isinstance(rejected, str):
        raise DataError(
            f"row {item.row} has no prompt; add a column prompt, or write chosen and rejected both "
            "as messages or both as text"
        )
    shared = _shared_beginning(chosen, rejected)
    place = shared.rfind(ASSISTANT)
    if place < 0:
        raise DataError(
            f"row {item.row} has no prompt; add a column prompt, or write chosen and rejected as "
            f"messages, or as dialogues of {HUMAN!r} and {ASSISTANT!r} with the same first turns"
        )
    end = place + len(ASSISTANT)
    answers = {"chosen": chosen[end:], "rejected": rejected[end:]}
    for column, answer in answers.items():
        if not answer.strip():
            raise DataError(f"row {item.row}: the last answer of column {column!r} is empty")
        if HUMAN in answer:
            raise DataError(
                f"row {item.row}: column {column!r} goes on after the answer in which the two "
                "dialogues differ, so that answers to different questions would be compared"
            )
    return replace(item, prompt=shared[:end], chosen=chosen[end:], rejected=rejected[end:])


def _shared_beginning(one: str, other: str) -> str:
    length = min(len(one), len(other))
    differing = (i for i in range(length) if one[i] != other[i])
    return one[: next(differing, length)]
