"""The rules of a watch on invented steps: what raises an alarm, and what does not."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from posttrain.config import WatchConfig
from posttrain.evaluation.reward_watch import (
    Watch,
    gold_has_fallen,
    moment,
    pooled,
    repetition,
    z_score,
)
from posttrain.rewards.base import RewardSet
from posttrain.types import Example, Sample, Task, Trace, TraceGroup


def numeric(text: str) -> str | None:
    return text if text.isdigit() else None


TASK = Task("t", [Example("p", id="0")], lambda text, example: 0.0, numeric)


def quality(completions, *, scale: float = 1.0) -> list[float]:
    """The gold of the tests: what stands before the bar."""
    return [scale * float(text.partition("|")[0] or 0) for text in completions]


def shown(completions) -> list[float]:
    """The proxy of the tests: what stands behind the bar."""
    return [float(text.partition("|")[2] or 0) for text in completions]


def watch(proxy: Any = shown, gold: Any = quality, **config: Any) -> Watch:
    golden = RewardSet([gold]) if gold is not None else None
    values = WatchConfig(**{"window": 3, **config})
    return Watch(values, RewardSet([proxy]), golden, TASK, lambda t: [ord(c) for c in t], 40)


def groups(gold: float, proxy: float, seed: int = 0, length: int = 5) -> list[TraceGroup]:
    draw = np.random.default_rng(seed)
    rows = []
    for prompt in range(6):
        traces = []
        for _ in range(2):
            noise = 0.05 * draw.standard_normal(2)
            sample = Sample(list(range(length)), [], [], "stop")
            text = f"{gold + noise[0]:.6f}|{proxy + noise[1]:.6f}"
            traces.append(Trace.of_sample((1,), sample, text, {}, proxy + noise[1]))
        rows.append(TraceGroup(Example("p", id=str(prompt)), (1,), traces))
    return rows


def means(w: Watch, step: int, *args: Any, **named: Any) -> dict[str, float]:
    return w.observe(step, *args, **named).means()


def test_moments_and_scores() -> None:
    assert moment([1.0, 3.0]) == (2.0, 1.0)
    assert moment([1.0])[1] == math.inf
    assert pooled([(1.0, 0.4), (3.0, 0.4)]) == (2.0, 0.2)
    assert z_score((0.0, 0.5), (2.0, 0.5)) == 2.0
    assert z_score((1.0, 0.0), (1.0, 0.0)) == 0.0
    assert z_score((1.0, 0.0), (2.0, 0.0)) == math.inf


def test_repetition_counts_grams_of_ids() -> None:
    assert repetition([1, 2, 3, 4, 5]) == 0.0
    assert repetition([1, 1, 1, 1, 1, 1]) == pytest.approx(2 / 3)
    assert repetition([1, 2]) == 0.0


def test_gold_falls_only_where_the_proxy_rises_and_the_fall_is_no_noise() -> None:
    up = [(0.1 * i, 1e-4) for i in range(8)]
    down = [(1 - 0.1 * i, 1e-4) for i in range(8)]
    noisy = [(m, 1.0) for m, _ in down]
    assert gold_has_fallen(up, down, 3)
    assert not gold_has_fallen(down, down, 3)
    assert not gold_has_fallen(up, up, 3)
    assert not gold_has_fallen(up, noisy, 3)
    assert not gold_has_fallen(up[:5], down[:5], 3)


def test_a_fall_behind_a_peak_raises_the_alarm_and_ends_the_run() -> None:
    w = watch(stop_on=["gold_falls"], patience=2)
    golds = [0.2, 0.5, 0.8, 0.8, 0.8, 0.6, 0.4, 0.2, 0.0, 0.0, 0.0]
    alarms = []
    for step, gold in enumerate(golds):
        row = means(w, step, groups(gold, 0.1 * step, seed=step))
        alarms.append(row.get("watch/alarm/gold_falls"))
        assert row["watch/gold"] == pytest.approx(gold, abs=0.1)
        assert row["watch/proxy"] == pytest.approx(0.1 * step, abs=0.1)
        if w.ended:
            break
    assert alarms[:5] == [None] * 5 and alarms[-2:] == [1.0, 1.0] and "gold_falls" in w.ended
    assert len(w.take_alarms()) == 1 and w.take_alarms() == []


def test_a_gold_reward_that_goes_along_raises_none() -> None:
    w = watch(stop_on=["gold_falls"])
    for step in range(12):
        row = means(w, step, groups(0.05 * step, 0.1 * step, seed=step))
    assert row["watch/alarm/gold_falls"] == 0.0 and not w.ended


def test_growing_completions_and_lost_answers() -> None:
    w = watch(gold=None)
    for step in range(6):
        some = groups(0.5, 0.5, step, length=5 if step < 3 else 20)
        for group in some:
            for trace in group.traces:
                trace.turns[0].text = "12" if step < 3 else "none"
        row = means(w, step, some)
    assert row["watch/alarm/length"] == row["watch/alarm/format"] == 1.0
    assert row["watch/extracted"] == 0.0 and row["watch/length"] == 20.0
    assert "watch/gold" not in row


def test_probes_are_scored_by_the_proxy_each_n_steps() -> None:
    def long_is_good(completions) -> list[float]:
        return [float(len(text)) for text in completions]

    w = watch(long_is_good, None, probe_every=2, probes=["empty", "long"], texts=["mine"])
    rows = [means(w, step, groups(0.0, 1.0)) for step in range(4)]
    assert ["watch/probe/long" in row for row in rows] == [True, True, False, True]
    assert rows[0]["watch/probe/empty"] == 0.0 and rows[0]["watch/probe/text_1"] == 4.0
    assert rows[0]["watch/probe/long"] <= 40  # no longer than a completion can be
    assert rows[0]["watch/alarm/probes"] == 1.0
    assert means(watch(shown, None, probe_every=1, probes=["empty"]), 0, groups(0.0, 1.0))[
        "watch/alarm/probes"
    ] == pytest.approx(0.0)


def test_a_probe_that_fails_counts_no_failure() -> None:
    def strict(completions) -> list[float]:
        if any(not text for text in completions):
            raise ValueError("empty")
        return [1.0 for _ in completions]

    w = watch(strict, None, probe_every=1, probes=["empty", "echo"])
    row = means(w, 0, groups(0.0, 2.0))
    assert "watch/probe/empty" not in row and row["watch/probe/echo"] == 1.0
    assert w.proxy.failures == {}


def test_watching_changes_no_trace() -> None:
    some = groups(0.3, 0.4)
    before = [(t.reward, dict(t.rewards), t.error) for g in some for t in g.traces]
    means(watch(probe_every=1), 0, some, kl=[0.5, 1.5])
    assert [(t.reward, dict(t.rewards), t.error) for g in some for t in g.traces] == before


def test_the_state_goes_through_json_and_the_watch_goes_on_from_it() -> None:
    one = watch(stop_on=["length"], patience=2)
    for step in range(7):
        means(
            one,
            step,
            groups(0.9 - 0.1 * step, 0.1 * step, step)[:1]
            if step == 2
            else groups(0.9 - 0.1 * step, 0.1 * step, step),
        )
    other = watch(stop_on=["length"], patience=2)
    other.load_state(json.loads(json.dumps(one.state())))
    assert other.state() == one.state()
    following = groups(0.1, 0.9, 9)
    assert means(other, 7, following) == means(one, 7, following)


def test_cadences() -> None:
    w = watch(gold_every=3, kl_every=2)
    assert [w.measures_kl(step) for step in range(4)] == [True, True, False, True]
    seen = ["watch/gold" in means(w, step, groups(0.1, 0.1)) for step in range(6)]
    assert seen == [True, False, True, False, False, True]
    assert means(w, 0, groups(0.1, 0.1), kl=[1.0, 2.0])["watch/kl"] == 1.5
