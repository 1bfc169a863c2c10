"""What the rows of a run lose on the way to training sequences, in one place."""

from __future__ import annotations

from dataclasses import dataclass, field

from posttrain.data.encoded import Encoded


@dataclass(slots=True)
class Account:
    """Losses of data, collected while a run is prepared.

    Attributes:
        losses: {"data lost": "3 of 20 rows cut, ..."}: what a check and the start of a run show.
        metrics: {"data/rows_cut": 3.0}: what the run logs at step 0.
    """

    losses: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)

    def add(self, encoded: Encoded, key: str = "data") -> None:
        """Record what the rows of `key` lost; nothing where they lost nothing."""
        self.metrics |= encoded.lost_metrics(key)
        if text := encoded.lost_text():
            self.losses[f"{key} lost"] = text
