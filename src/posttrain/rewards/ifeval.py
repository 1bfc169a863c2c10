"""Reward for following verifiable instructions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.errors import DataError
from posttrain.registry import rewards
from posttrain.rewards.instructions import follows


def followed(text: str, columns: Mapping[str, Any], *, loose: bool = False) -> list[bool]:
    """Whether a text follows each instruction of a row.

    Args:
        columns: with instruction_id_list and kwargs, one set of settings for each instruction.
    Raises:
        DataError: the columns are missing or do not fit each other.
    """
    names, settings = columns.get("instruction_id_list"), columns.get("kwargs")
    if not names or not isinstance(settings, Sequence) or len(names) != len(settings):
        raise DataError(
            "instructions: a row needs the columns instruction_id_list and kwargs, lists of equal "
            f"length; there are {', '.join(columns) or 'none'}"
        )
    return [follows(text, n, s or {}, loose=loose) for n, s in zip(names, settings, strict=True)]


@rewards.register
def instructions(
    completions, examples, *, partial: bool = False, loose: bool = False
) -> list[float]:
    """Verifiable instructions, as IFEval has them: 1 where all are followed, else 0; or their share
    (arXiv 2311.07911).

    The row's columns instruction_id_list and kwargs name them. partial: the share of instructions
    that are followed. loose: also without the first or last line, or without asterisks.
    """
    texts = [c if isinstance(c, str) else str(c[-1]["content"]) for c in completions]
    verdicts = [followed(t, e.columns, loose=loose) for t, e in zip(texts, examples, strict=True)]
    return [sum(v) / len(v) if partial else float(all(v)) for v in verdicts]
