"""Sampling while training. Nothing imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from posttrain.errors import ConfigError
from posttrain.typecheck import described


@described("Overlap")
@dataclass(frozen=True, slots=True)
class OverlapConfig:
    """Sampling in another process while this one trains.

    Attributes:
        max_staleness: by how many updates the weights that sampled a token may lag behind those
            that are trained on it. 0 samples and trains in turn, with the numbers of a run in one
            process.
        in_flight: let the weights change while completions are being written, and train on groups
            in the order in which they are finished, so that no step waits for the longest. Such a
            run does not repeat itself. If false, each completion is of one version of the weights,
            and with max_staleness of at most 1 a run is a function of its seed.
        stale: what happens to a group with older tokens than max_staleness allows, which only
            in_flight leads to: "drop" leaves it out and samples another, "keep" trains on it.
        num_threads: threads of the process that samples. 0 is as many as the training has.
    """

    max_staleness: int = 1
    in_flight: bool = False
    stale: Literal["drop", "keep"] = "drop"
    num_threads: int = 0


def check_overlap(overlap: OverlapConfig) -> None:
    """Refuse numbers that no overlap can have.

    Raises:
        ConfigError: names the key and the way out.
    """
    for name in ("max_staleness", "num_threads"):
        value = getattr(overlap, name)
        if value < 0:
            raise ConfigError(f"overlap.{name}: {value} must be at least 0")
    if overlap.in_flight and overlap.max_staleness == 0:
        raise ConfigError(
            "overlap.in_flight: with max_staleness 0 nothing is being written while the weights "
            "change; set max_staleness to at least 1, or leave in_flight out"
        )
    if overlap.stale != "drop" and not overlap.in_flight:
        raise ConfigError(
            f"overlap.stale: {overlap.stale!r} has no effect without in_flight, where no token is "
            "too old; leave it out"
        )
