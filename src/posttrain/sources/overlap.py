"""Rollouts that are sampled while the model trains on earlier ones.

A thread collects the rollouts of the next steps; its engine samples in another process. With a
bound of k updates, the rollouts of step s are begun once the weights of step s - k are there.
In turn, and with k = 1:

    sample 0 | train 0 | sample 1 | train 1 | ...

    sample 0 | sample 1 | sample 2 | sample 3 | ...
             | train 0  | train 1  | train 2  | ...

New weights go to the engine when a step's rollouts are done, so that each completion is of one
version; or at once (`in_flight`), so that a completion may be of several.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from posttrain.averages import Averages
from posttrain.engines.process import ProcessEngine
from posttrain.errors import ConfigError
from posttrain.sources.arrivals import Arrivals
from posttrain.sources.collect import Collector
from posttrain.sources.group_record import group_of, group_record
from posttrain.types import TraceGroup

_STATE = "overlap"
_END_SECONDS = 10.0


@dataclasses.dataclass(frozen=True, slots=True)
class _Ready:
    """The rollouts of a step.

    sampled: those that were left out included. seconds: how long the engine waited for the weights.
    dropped: groups that were too old.
    """

    groups: list[TraceGroup]
    sampled: list[TraceGroup]
    seconds: float
    dropped: int


class OverlappedCollector(Collector):
    """A collector that is ahead of the training. Close it at the end.

    A checkpoint holds the rollouts that are ready and not yet trained on. Those that are being
    sampled are dropped, and a resume samples them again. Where each completion is of one version
    and the bound is at most 1, they are sampled with the weights of the checkpoint, and the resumed
    run equals one that was never interrupted.

    Args:
        collector: what is collected. Its engine, and rewards, are called in another thread.
        max_staleness: by how many updates the weights of a token may lag behind the step that
            trains on it, at least 1.
        in_flight: send new weights while samples are being written, and take single completions in
            the order in which they are finished.
        keeps_stale: train on groups with older tokens, instead of dropping them.
        last: the number of the last step, None where there is none.

    Raises:
        ConfigError: in_flight with an engine whose weights cannot change then, or with episodes
            and an engine that is not a process of its own.
    """

    def __init__(
        self,
        collector: Collector,
        *,
        max_staleness: int,
        in_flight: bool = False,
        keeps_stale: bool = False,
        last: int | None = None,
    ) -> None:
        changes = isinstance(collector.engine, ProcessEngine) or collector.episodes is None
        if in_flight and not (changes and collector.engine.in_flight):
            what = "episodes" if collector.engine.in_flight else "samples"
            raise ConfigError(
                f"overlap.in_flight: weights of {type(collector.engine).__name__} cannot change "
                f"while {what} are being written; leave it out"
            )
        self.__dict__.update(vars(collector))
        self.max_staleness, self.in_flight, self.keeps_stale = max_staleness, in_flight, keeps_stale
        self.last = last
        self._collector = collector
        self._arrivals: Arrivals | None = None
        self._saved: dict[str, Any] = {}
        self._ready: dict[int, _Ready] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._offset = 0  # version of the weights minus step
        self._version = self._next = 0
        self._is_sampling = self._is_syncing = self._ends = False
        self._error: BaseException | None = None
        self._pending: int | None = None  # version that the thread is asked to give the engine
        self._synced: dict[str, float] | None = None
        self._of_step = _Ready([], [], 0.0, 0)
        self._waited = 0.0

    # -- the side of the training

    def collect(self, step: int) -> list[TraceGroup]:
        """The rewarded groups of a step, which may have been sampled already."""
        if self._thread is None:
            self._begin(step)
        started = time.perf_counter()
        with self._changed:
            self._changed.wait_for(lambda: step in self._ready or self._error is not None)
            if step not in self._ready:
                assert self._error is not None
                raise self._error
            ready = self._of_step = self._ready.pop(step)
        self._waited = time.perf_counter() - started
        self.sampled = ready.sampled
        return ready.groups

    def sync(self, version: int) -> dict[str, float]:
        """Give the engine the new weights: now, or once the rollouts that it samples are done."""
        with self._changed:
            self._is_syncing = True
            if not self.in_flight:
                self._changed.wait_for(lambda: not self._is_sampling or self._error is not None)
            elif self._is_sampling and not isinstance(self.engine, ProcessEngine):
                return self._synced_by_thread(version)
        try:
            # An error of the thread is raised by `collect`.
            return super().sync(version) if self._error is None else {}
        finally:
            with self._changed:
                self._is_syncing = False
                self._version = version
                self._grant()

    def _synced_by_thread(self, version: int) -> dict[str, float]:
        """Let the thread, which owns the engine, give it the weights between two steps."""
        self._pending, self._synced = version, None
        self._changed.wait_for(lambda: self._synced is not None or not self._is_sampling)
        if self._synced is None and self._error is None:
            self._synced = super().sync(version)
        self._pending, self._is_syncing, self._version = None, False, version
        self._grant()
        return self._synced or {}

    def metrics(self, groups: Sequence[TraceGroup], step: int) -> Averages:
        """As those of a `Collector`, with staleness and waiting times."""
        averages = super().metrics(groups, step)
        averages.update(
            {
                "sampling/groups_dropped": float(self._of_step.dropped),
                "sampling/trainer_wait_seconds": self._waited,
                "sampling/engine_wait_seconds": self._of_step.seconds,
            }
        )
        return averages

    def state(self) -> dict[str, Any]:
        """The rollouts that are ready."""
        places = {id(prompt.example): place for place, prompt in enumerate(self.prompts)}
        with self._changed:
            ready = dict(self._ready)
            arrivals = None if self._arrivals is None else self._arrivals.state()
        steps = {
            str(step): {
                "sampled": [
                    {"prompt": places[id(group.example)], **group_record(group)}
                    for group in rollouts.sampled
                ],
                "trained": [
                    place
                    for place, group in enumerate(rollouts.sampled)
                    if any(group is other for other in rollouts.groups)
                ],
                "dropped": rollouts.dropped,
            }
            for step, rollouts in ready.items()
        }
        return {_STATE: {"steps": steps, "arrivals": arrivals}}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take the rollouts that were ready."""
        self._saved = state.get(_STATE) or {}
        for step, saved in self._saved.get("steps", {}).items():
            sampled = [group_of(r, self.prompts[r["prompt"]].example) for r in saved["sampled"]]
            groups = [sampled[place] for place in saved["trained"]]
            self._ready[int(step)] = _Ready(groups, sampled, 0.0, saved["dropped"])

    def close(self) -> None:
        """End the sampling."""
        with self._changed:
            self._ends = True
            self._changed.notify_all()
        super().close()  # whoever waits for the engine is woken by an error
        if self._thread is not None:
            self._thread.join(_END_SECONDS)  # a reward of the user's may still run

    def _trained_version(self, step: int) -> int:
        return self._offset + step

    # -- the side of the engine

    def _begin(self, step: int) -> None:
        """Start to collect, at the first step that is not ready."""
        if isinstance(self.engine, ProcessEngine):
            self.engine.start()  # here, before the weights move
        self._version = self.engine.weights_version
        self._offset = self._version - step
        first = self._next = max(self._ready, default=step - 1) + 1
        if self.in_flight and self.episodes is None:
            self._arrivals = Arrivals(
                self._collector,
                capacity=(self.max_staleness + 1) * self.batch_size,
                first=first * self.batch_size,
                last=None if self.last is None else self.last * self.batch_size,
            )
            if self._saved.get("arrivals"):
                self._arrivals.load_state(self._saved["arrivals"])
        self._thread = threading.Thread(target=self._sample, name="rollouts", daemon=True)
        with self._changed:
            self._grant()
        self._thread.start()

    def _grant(self) -> None:
        """Let the thread begin the next step, if its weights are there.

        Whoever changes what this depends on calls it under the same lock, so that which weights
        sample a step does not depend on when the thread wakes.
        """
        oldest = self._offset + self._next - self.max_staleness
        waits = self._is_syncing and not self.in_flight
        is_wanted = self.last is None or self._next < self.last
        if is_wanted and not waits and self._version >= oldest and self._error is None:
            self._is_sampling = True
        self._changed.notify_all()

    def _sample(self) -> None:
        """Collect step after step, as far ahead as the bound allows."""
        try:
            while True:
                started = time.perf_counter()
                with self._changed:
                    self._changed.wait_for(lambda: self._is_sampling or self._ends)
                    if self._ends:
                        return
                    step = self._next
                seconds = time.perf_counter() - started
                groups, dropped = self._collected(step)
                ready = _Ready(groups, self._collector.sampled, seconds, dropped)
                with self._changed:
                    self._ready[step] = ready
                    if self._arrivals is not None:
                        self._arrivals.deliver()
                    self._next = step + 1
                    self._is_sampling = False
                    self._grant()
        except BaseException as error:  # it is raised where the training asks for rollouts
            with self._changed:
                self._error = error
                self._is_sampling = False
                self._changed.notify_all()

    def _between_steps(self) -> None:
        """What the thread does before each step of the engine."""
        with self._changed:
            if self._pending is not None and self._synced is None:
                self._synced = super().sync(self._pending)
                self._changed.notify_all()

    def _collected(self, step: int) -> tuple[list[TraceGroup], int]:
        """The rewarded groups of a step, and how many were too old."""
        if self._arrivals is None:
            return self._collector.collect(step), 0
        before = self._arrivals.dropped
        oldest = None if self.keeps_stale else self._offset + step - self.max_staleness
        groups = self._arrivals.collect(self.batch_size, oldest, self._between_steps)
        if self.rewards is not None:
            self.rewards.reward(groups)
        self._collector.sampled = groups
        return groups, self._arrivals.dropped - before
