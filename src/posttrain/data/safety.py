"""Margins of pairs by safety and helpfulness."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from posttrain.errors import DataError, shown


def safety_margins(
    rows: Iterable[Mapping[str, Any]], *, alpha: float = 0.5
) -> list[dict[str, Any]]:
    """Rows of pairs with the column `margin` of the loss bfpo (arXiv 2408.15313).

        margin = 3/2 chosen_safe - 1/2 rejected_safe - alpha

    rows = pt.safety_margins(pairs); pt.fit(model, pt.dpo(rows, losses="bfpo"))

    Args:
        rows: pairs whose chosen completion is the more helpful one, with the columns chosen_safe
            and rejected_safe: true or false, or 1 or 0.
        alpha: the middle. 1/2 prefers of two safe ones the more helpful, and of two unsafe ones
            the less helpful.

    Raises:
        DataError: a row lacks a verdict.
    """
    marked = []
    for number, row in enumerate(rows):
        verdicts = [row.get(name) for name in ("chosen_safe", "rejected_safe")]
        if any(verdict not in (0, 1) for verdict in verdicts):
            raise DataError(
                f"safety_margins: row {number} is {shown(dict(row))}; chosen_safe and "
                "rejected_safe must both be true or false"
            )
        chosen, rejected = (float(verdict) for verdict in verdicts)  # type: ignore[arg-type]
        rest = {k: v for k, v in row.items() if k not in ("chosen_safe", "rejected_safe")}
        marked.append({**rest, "margin": 1.5 * chosen - 0.5 * rejected - alpha})
    return marked
