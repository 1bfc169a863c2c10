"""Rollouts that are ahead of the training: which weights sample them, what is dropped, and what a
checkpoint holds. The engine is one without a model.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from versioned_engine import VersionedEngine

from posttrain.errors import ConfigError
from posttrain.sources.collect import Collector, Prompt
from posttrain.sources.overlap import OverlappedCollector
from posttrain.types import Example, Sampling, TraceGroup

B, G = 3, 2


class Rewards:
    """1 for a completion of an even number of tokens. times: how often it was asked."""

    def __init__(self) -> None:
        self.names, self.times = ["even"], 0

    def reward(self, groups: list[TraceGroup]) -> None:
        self.times += 1
        for trace in (t for g in groups for t in g.traces):
            trace.reward = float(trace.num_sampled % 2 == 0)
            trace.rewards = {"even": trace.reward}

    def take_spread(self) -> dict[str, tuple[float, int]]:
        return {}


def collector_of(engine: VersionedEngine, num_prompts: int = 12) -> Collector:
    prompts = [Prompt(Example(str(i), id=str(i)), (i,)) for i in range(num_prompts)]
    rewards: Any = Rewards()
    return Collector(
        prompts,
        engine,
        rewards,
        decode=lambda sample: "",
        sampling=Sampling(),
        batch_size=B,
        num_generations=G,
        seed=5,
    )


def overlapped(engine: VersionedEngine, max_staleness: int = 1, **more: Any) -> OverlappedCollector:
    return OverlappedCollector(collector_of(engine), max_staleness=max_staleness, **more)


def run(source: Collector, steps: range) -> list[list[TraceGroup]]:
    """The groups of each step; the weights move behind each."""
    collected = []
    for step in steps:
        collected.append(source.collect(step))
        source.sync(step + 1)
    return collected


def prompts(groups: list[TraceGroup]) -> list[int]:
    return [group.prompt_ids[0] for group in groups]


def versions(groups: list[TraceGroup]) -> set[int]:
    return {s.version for g in groups for t in g.traces for s in t.sample.spans}


def test_rollouts_of_a_step_are_of_the_weights_one_update_before() -> None:
    """In the order of the steps, with prompts and seeds as in turn, again and again."""
    in_turn = run(collector_of(VersionedEngine(in_flight=False)), range(8))
    for _ in range(20):
        engine = VersionedEngine(in_flight=False)
        source = overlapped(engine, last=8)
        collected = run(source, range(8))
        source.close()
        assert [prompts(g) for g in collected] == [prompts(g) for g in in_turn]
        assert [versions(g) for g in collected] == [{max(step - 1, 0)} for step in range(8)]
        assert len(engine.begun) == 8 * B and engine.closed


@pytest.mark.parametrize("max_staleness", [2, 3])
def test_no_token_is_older_than_the_bound(max_staleness: int) -> None:
    source = overlapped(VersionedEngine(in_flight=False), max_staleness, last=10)
    for step, groups in enumerate(run(source, range(10))):
        assert all(step - max_staleness <= v <= step for v in versions(groups))
        shown = source.metrics(groups, step).means()
        assert shown["sampling/staleness/max"] <= max_staleness
        assert shown["sampling/groups_dropped"] == 0
    source.close()


def test_groups_in_flight_are_taken_as_they_finish() -> None:
    """The longest completion of the first step is trained on later, and none is lost."""
    seeds = collector_of(VersionedEngine()).prompts_of(0)[1]
    engine = VersionedEngine(lengths={seeds[1]: 60})
    source = overlapped(engine, in_flight=True, keeps_stale=True, last=12)
    begun = prompts(collector_of(VersionedEngine()).collect(0))
    collected = run(source, range(12))
    source.close()
    assert begun[1] not in prompts(collected[0])
    every = [prompt for groups in collected for prompt in prompts(groups)]
    assert sorted(every) == sorted([*range(12)] * 3)  # 12 steps of 3 are 3 epochs of 12 prompts
    assert max(len(versions(groups)) for groups in collected) > 1
    assert len(engine.begun) == 12 * B


def test_groups_that_are_too_old_are_dropped() -> None:
    seeds = collector_of(VersionedEngine()).prompts_of(0)[1]
    engine = VersionedEngine(lengths={seeds[1]: 60})
    source = overlapped(engine, in_flight=True, last=12)
    dropped = 0.0
    for step in range(12):
        groups = source.collect(step)
        assert len(groups) == B and min(versions(groups)) >= step - 1
        shown = source.metrics(groups, step).means()
        dropped += shown["sampling/groups_dropped"]
        assert shown["sampling/staleness/max"] <= 1
        source.sync(step + 1)
    source.close()
    # One more prompt is sampled for each group that was dropped.
    assert dropped >= 1 and len(engine.begun) == 12 * B + dropped


def test_an_engine_that_cannot_change_under_requests_is_refused() -> None:
    with pytest.raises(ConfigError, match="overlap.in_flight.*VersionedEngine"):
        overlapped(VersionedEngine(in_flight=False), in_flight=True)


@pytest.mark.parametrize("in_flight", [False, True])
def test_what_fails_while_sampling_is_raised_where_rollouts_are_asked_for(in_flight: bool) -> None:
    engine = VersionedEngine()
    source = overlapped(engine, in_flight=in_flight)
    source.collect(0)
    source.sync(1)
    engine.broken = ValueError("no memory")
    with pytest.raises(ValueError, match="no memory"):
        for step in range(1, 9):
            source.collect(step)
            source.sync(step + 1)
    source.sync(99)  # does not wait for what has ended
    source.close()


@pytest.mark.parametrize("in_flight", [False, True])
def test_closing_ends_a_thread_that_samples(in_flight: bool) -> None:
    engine = VersionedEngine()
    source = overlapped(engine, in_flight=in_flight)
    source.collect(0)
    engine.gate.clear()
    source.close()
    assert source._thread is not None and not source._thread.is_alive()


def test_a_checkpoint_holds_what_is_ready() -> None:
    """Step 1 was sampled with the first weights, which are gone: it is saved. Step 2, which is
    sampled with those of the checkpoint, is sampled again.
    """
    whole_source = overlapped(VersionedEngine(in_flight=False), last=6)
    whole = run(whole_source, range(6))
    whole_source.close()
    source = overlapped(VersionedEngine(in_flight=False), last=6)
    run(source, range(1))
    saved = json.loads(json.dumps(source.state()))
    source.close()
    assert list(saved["overlap"]["steps"]) == ["1"]
    engine = VersionedEngine(in_flight=False)
    engine.weights_version = 1
    resumed = overlapped(engine, last=6)
    resumed.load_state(saved)
    again = run(resumed, range(1, 6))
    resumed.close()
    assert again == whole[1:]
    assert [version for _, version in engine.begun] == [v for v in range(1, 5) for _ in range(B)]


def test_a_checkpoint_of_groups_in_flight_loses_no_prompt() -> None:
    engine = VersionedEngine()
    source = overlapped(engine, 2, in_flight=True, keeps_stale=True, last=12)
    first = run(source, range(5))
    saved = json.loads(json.dumps(source.state()))
    source.close()
    later = VersionedEngine()
    later.weights_version = 5
    resumed = overlapped(later, 2, in_flight=True, keeps_stale=True, last=12)
    resumed.load_state(saved)
    rest = run(resumed, range(5, 12))
    resumed.close()
    every = [prompt for groups in [*first, *rest] for prompt in prompts(groups)]
    assert sorted(every) == sorted([*range(12)] * 3)
