"""What of the data is lost, in words and as metrics."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Account:
    """Losses of data: shown by a check and when a run starts, and written to its metrics.

    Attributes:
        losses: what is lost, in words, by what it is lost from.
        metrics: the same as numbers, at step 0.
    """

    losses: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
