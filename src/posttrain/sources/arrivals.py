"""Groups of completions in the order in which they are finished."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from posttrain.sources.collect import Collector, Prompt
from posttrain.types import TraceGroup


class Arrivals:
    """Keeps prompts open on an engine, and makes a step of the groups that are finished first.

    Prompts are begun in the order of the steps that would have had them in turn, each with the
    seed that it would have had.

    Args:
        capacity: most groups that are open at a time.
        first: the number of the first prompt, counted over the prompts of all steps.
        last: the number behind that of the last prompt, unless groups are dropped; None: no end.
    Attributes:
        dropped: groups that were too old, so far.
    """

    def __init__(
        self, collector: Collector, *, capacity: int, first: int, last: int | None = None
    ) -> None:
        self.collector = collector
        self.capacity = capacity
        self.dropped = 0
        self._last = last
        self._next = first
        self._again: list[int] = []
        self._open: dict[int, int] = {}  # number of the prompt, by ticket
        self._finished: list[tuple[int, TraceGroup]] = []  # behind those of the last step
        self._taken: list[int] = []
        self._undelivered: dict[int, None] = {}
        self._lock = threading.Lock()

    def collect(
        self, num_groups: int, oldest: int | None, before_step: Callable[[], None]
    ) -> list[TraceGroup]:
        """The next groups that are finished, without rewards.

        Args:
            oldest: version of the weights; a group with a token of an earlier one is dropped. None
                drops nothing.
            before_step: is called before each step of the engine.
        """
        while True:
            fresh = [(n, g) for n, g in self._finished if oldest is None or _oldest(g) >= oldest]
            kept = {number for number, _ in fresh}
            for number, _ in self._finished:
                if number not in kept:
                    self._drop(number)
            self._finished = fresh
            if len(fresh) >= num_groups:
                break
            self._admit()
            before_step()
            self._step()
        taken, self._finished = self._finished[:num_groups], self._finished[num_groups:]
        self._taken = [number for number, _ in taken]
        return [group for _, group in taken]

    def deliver(self) -> None:
        """The groups of the last `collect` are in safe hands: nobody has to sample them again."""
        with self._lock:
            for number in self._taken:
                del self._undelivered[number]
            self._taken = []

    def state(self) -> dict[str, Any]:
        """The prompts that are open are begun again by who reads this."""
        with self._lock:
            return {"next": self._next, "again": list(self._undelivered)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on behind what `state` gave."""
        self._next, self._again = state["next"], list(state["again"])

    def _admit(self) -> None:
        """Begin prompts while there is room."""
        held = len(self._finished)
        while len(self._open) + held < self.capacity and (self._again or self._has_next()):
            with self._lock:
                if self._again:
                    number = self._again.pop(0)
                else:
                    number = self._next
                    self._next += 1
                self._undelivered[number] = None
            request = self.collector.request(*self._prompt(number))
            self._open[self.collector.engine.submit(request)] = number

    def _step(self) -> None:
        """Let the engine decode; the groups that finish with it."""
        for finished in self.collector.engine.step():
            number = self._open.pop(finished.ticket)
            if finished.error is not None:
                raise finished.error
            prompt, _ = self._prompt(number)
            self._finished.append((number, self.collector.group(prompt, finished.samples)))

    def _has_next(self) -> bool:
        """Whether another prompt is wanted: each one that was dropped asks for one more."""
        return self._last is None or self._next < self._last + self.dropped

    def _drop(self, number: int) -> None:
        with self._lock:
            del self._undelivered[number]
            self.dropped += 1

    def _prompt(self, number: int) -> tuple[Prompt, int]:
        """A prompt and its seed."""
        step, place = divmod(number, self.collector.batch_size)
        prompts, seeds = self.collector.prompts_of(step)
        return prompts[place], seeds[place]


def _oldest(group: TraceGroup) -> int:
    """The oldest version of the weights that wrote any token of a group."""
    return min(trace.sample.weights_version for trace in group.traces)
