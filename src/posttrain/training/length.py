"""How long a run is, and whether another length would have changed the steps that are done."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from posttrain.errors import CheckpointError
from posttrain.training.changes import Change
from posttrain.training.optim import Schedule, learning_rate_factor
from posttrain.training.plan import AdamW
from posttrain.training.resume import Start
from posttrain.training.settings import TrainingSettings


@dataclass(frozen=True, slots=True)
class Length:
    """How long a run is.

    Attributes:
        steps: number of the last step.
        schedule: lr_scheduler_type, warmup_steps and min_lr_ratio, from which the learning rate of
            a step follows.
        schedule_steps: steps that the schedule is over; None = `steps`.
        reasons: of the method, why the number of steps matters.
    """

    steps: int
    schedule: Mapping[str, Any]
    schedule_steps: int | None = None
    reasons: Sequence[str] = ()

    @classmethod
    def of(
        cls,
        steps: int,
        optimizer: AdamW,
        settings: TrainingSettings,
        *,
        schedule_steps: int | None = None,
        by_steps: str = "",
    ) -> Length:
        """The length of a training. by_steps: why the method's number of steps matters, or ""."""
        schedule = {
            "lr_scheduler_type": optimizer.lr_scheduler_type,
            "warmup_steps": settings.warmup_steps,
            "min_lr_ratio": settings.min_lr_ratio,
        }
        return cls(steps, schedule, schedule_steps, [by_steps] if by_steps else [])

    def change(self, start: Start, *more: str) -> Change | None:
        """The change of a run's length since a checkpoint, where steps that are done would have
        been others in a run of this length.

        Args:
            more: reasons of the adapters, why the number of steps matters.

        Raises:
            CheckpointError: the length is below the steps that are done.
        """
        steps, before = self.steps, int(start.saved["steps"])
        if steps < start.step:
            raise CheckpointError(
                f"{start.caller.length}: {steps} is below the {start.step} steps that "
                f"{start.checkpoint} has done; raise it. Nothing was changed"
            )
        span, span_before = self.schedule_steps or steps, start.saved.get("schedule_steps", before)
        if steps == before and span == span_before:
            return None
        why = [*more, *self.reasons]
        if self._rates(start.step, span) != self._rates(start.step, int(span_before)):
            share = 0 < float(self.schedule["warmup_steps"]) < 1
            name = self.schedule["lr_scheduler_type"]
            what = "warmup_steps is a share of them" if share else f"lr_scheduler_type is {name}"
            why.insert(
                0,
                "the learning rates of the steps done would have been others: "
                f"{what}; constant rates extend exactly",
            )
        if not why:
            return None
        key = next((c.name for c in start.changes if c.rule == "length"), "max_steps")
        return Change(key, "accept", f"steps: {before} -> {steps}", "; ".join(why))

    def longer(self, start: Start) -> str:
        """How a finished run is trained on, with the reason where that has to be accepted."""
        if start.checkpoint is None:
            return "It kept no checkpoint to train on from (save_final)"
        change = dataclasses.replace(self, steps=start.step + 1).change(start)
        accept = [change.name] if change is not None else []
        call = start.caller.resume(start.folder, steps="N", accept=accept)
        why = f" ({change.reason})" if change is not None else ""
        return f"To train on to step N: {call}{why}"

    def _rates(self, number: int, span: int) -> list[float]:
        """The factors of the learning rate of the first `number` steps of a schedule."""
        return [
            learning_rate_factor(
                step,
                span,
                schedule=cast(Schedule, self.schedule["lr_scheduler_type"]),
                warmup_steps=float(self.schedule["warmup_steps"]),
                min_lr_ratio=float(self.schedule["min_lr_ratio"]),
            )
            for step in range(number)
        ]
