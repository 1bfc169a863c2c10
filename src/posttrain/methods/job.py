"""What a method prepares for a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class Job:
    """What a method has prepared, before any weights are loaded.

    facts: name and value of what a check shows. execute: does the work. preview: shows what is
    trained on.
    """

    facts: list[tuple[str, str]]
    execute: Callable[[], None]
    preview: Callable[[int], None] | None = None


class TrainingJob(Job):
    """A job that leaves a trained model in the run's folder."""
