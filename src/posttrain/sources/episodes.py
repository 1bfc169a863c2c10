"""Traces by episodes: conversations, tool loops and environments in place of single completions."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from posttrain.engines.base import Engine
from posttrain.episodes.ask import Ask
from posttrain.episodes.drive import Failed, drive
from posttrain.episodes.single import Episode
from posttrain.errors import EpisodeError
from posttrain.types import Example, Sampling, Trace

# Environments take their seed as a C integer as often as not.
_SEEDS = 2**31


@dataclass(frozen=True, slots=True)
class EpisodeSampler:
    """Runs episodes on an engine.

    Attributes:
        episode: async (example, ask, tools) -> Trace. tools: what it may call.
        max_concurrent: most episodes that run at the same time; 0 = all of a step.
        gather_seconds: how long the engine waits for calls that have begun (see `drive`).
        max_failed: largest share of a step's episodes that may fail; where all fail or more than
            that, the run stops.
    """

    episode: Episode
    tools: Sequence[Callable[..., Any]] = ()
    max_concurrent: int = 0
    gather_seconds: float = 0.0
    max_failed: float = 0.5

    def traces(
        self,
        engine: Engine,
        examples: Sequence[Example],
        seeds: Sequence[int],
        n: int,
        sampling: Sampling,
        *,
        on_finished: Callable[[int], None] | None = None,
    ) -> list[list[Trace]]:
        """n traces of each example.

        Those of an example begin alike: its environments get one seed, unless the example has a
        column of that name. What each samples follows from a seed of its own, whatever runs beside.

        Args:
            on_finished: is called with the place of the example whenever one of its episodes ends.

        Raises:
            EpisodeError: too many episodes failed.
        """
        programs: list[Callable[[Ask], Coroutine[Any, Any, Trace]]] = []
        own_seeds: list[int] = []
        for example, seed in zip(examples, seeds, strict=True):
            columns = {"seed": seed % _SEEDS, **example.columns}
            begun = dataclasses.replace(example, columns=columns)
            programs += [functools.partial(self._run, begun)] * n
            draw = np.random.default_rng((seed, 17))
            own_seeds += [int(s) for s in draw.integers(0, 2**62, size=n)]
        results = drive(
            programs,
            engine,
            sampling=sampling,
            seeds=own_seeds,
            max_concurrent=self.max_concurrent,
            gather_seconds=self.gather_seconds,
            on_finished=(
                None if on_finished is None else lambda place, result: on_finished(place // n)
            ),
        )
        traces = [r.trace() if isinstance(r, Failed) else r for r in results]
        self._watch(traces, results)
        return [traces[i : i + n] for i in range(0, len(traces), n)]

    async def _run(self, example: Example, ask: Ask) -> Trace:
        trace = await self.episode(example, ask, self.tools)
        if not isinstance(trace, Trace):
            raise EpisodeError(
                f"the episode returned {type(trace).__name__}; it must return a posttrain.Trace"
            )
        return trace

    def _watch(self, traces: Sequence[Trace], results: Sequence[Trace | Failed]) -> None:
        failed = [place for place, trace in enumerate(traces) if trace.has_failed]
        if not failed or (
            len(failed) < len(traces) and len(failed) <= self.max_failed * len(traces)
        ):
            return
        first = results[failed[0]]
        detail = f"\n{first.traceback}" if isinstance(first, Failed) and first.traceback else ""
        raise EpisodeError(
            f"{len(failed)} of {len(traces)} episodes of a step failed: {traces[failed[0]].error}. "
            "A run stops where all episodes fail, or more than "
            f"max_failed_rewards={self.max_failed:g} of them. Mend the environment or its tools; "
            f"the run goes on from its last checkpoint with `posttrain resume`.{detail}"
        )
