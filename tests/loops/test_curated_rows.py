"""What a round trains on, buys and weighs."""

from __future__ import annotations

import numpy as np
import pytest

from posttrain.data.forest import TokenSequence
from posttrain.loops.curated_rows import Curation, mixture
from posttrain.training.rollout_rows import RolloutRow
from posttrain.types import Example, Sample, Trace, TraceGroup


def group_of(name: str, rewards: list[float | None]) -> TraceGroup:
    sample = Sample([5, 6], [0.0, 0.0], [0.0, 0.0], "stop")
    traces = [
        Trace.of_sample((1, 2), sample, "x", rewards={}, reward=r, advantage=0.0) for r in rewards
    ]
    return TraceGroup(Example("p", id=name), (1, 2), traces)


def curation(arm: str, **settings: object) -> Curation:
    values = {
        "label_accuracy": 0.1,
        "false_accepts": 0.0,
        "label_weight": 0.2,
        "filter_labels": False,
        "min_reward": 1.0,
        "accumulate": False,
        **settings,
    }
    return Curation(arm, 2, **values)  # type: ignore[arg-type]


def rows_of(arm: str, rewards: list[list[float | None]]) -> list[RolloutRow]:
    draw = np.random.default_rng(0)
    groups = [group_of(str(i), row) for i, row in enumerate(rewards)]
    return [RolloutRow(0, g, curation(arm).accepted(g, draw)) for g in groups]


def test_each_arm_accepts_its_samples() -> None:
    draw = np.random.default_rng(0)
    group = group_of("a", [1.0, 0.2, None, 1.0])
    assert curation("filter").accepted(group, draw) == (0, 3)
    assert curation("none").accepted(group, draw) == (0, 1, 3)
    assert curation("filter", false_accepts=1.0).accepted(group, draw) == (0, 1, 3)
    many = group_of("b", [0.0] * 4000)
    share = len(curation("filter", false_accepts=0.25).accepted(many, draw)) / 4000
    assert share == pytest.approx(0.25, abs=0.03)


def test_the_hardest_are_those_that_fail_with_the_least_reward() -> None:
    rewards: list[list[float | None]] = [[1.0, 0.0], [0.5, 0.5], [0.0, 0.1], [0.0, 0.0], [1.0, 1.0]]
    rows = rows_of("hardest", rewards)
    assert curation("hardest").labelled(rows, np.random.default_rng(0)) == [3, 2]
    assert curation("filter").labelled(rows, np.random.default_rng(0)) == []
    drawn = {
        tuple(curation("random").labelled(rows, np.random.default_rng(seed))) for seed in range(40)
    }
    assert len(drawn) > 10 and all(len(set(places)) == 2 for places in drawn)


def sequence(length: int, trained: int) -> TokenSequence:
    return TokenSequence(np.arange(length), np.arange(length) >= length - trained)


@pytest.mark.parametrize("label_weight", [0.1, 0.5])
def test_labels_have_their_share_of_the_weight(label_weight: float) -> None:
    mixed = mixture([sequence(5, 3), sequence(6, 4)], [sequence(4, 2)], label_weight)
    weights = [float((s.streams["weights"] * s.loss_mask).sum()) for s in mixed]
    assert weights[2] / sum(weights) == pytest.approx(label_weight)
    assert weights[:2] == [3.0, 4.0]


def test_what_is_alone_counts_whole() -> None:
    for samples, labels in (([sequence(4, 2)], []), ([], [sequence(4, 2)])):
        (only,) = mixture(samples, labels, 0.1)
        assert (only.streams["weights"] == 1).all()


def test_it_is_shown() -> None:
    assert "10%" in curation("hardest").text() and "all" in curation("none").text()
    assert "5%" in curation("filter", false_accepts=0.05).text()
