"""Strategies at budgets on the embedded model: within budgets, and estimates that are the runs'."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import posttrain as pt
from posttrain.errors import ConfigError
from posttrain.tasks.arithmetic import arithmetic

TASK = arithmetic(num_steps=2, num_examples=6, split="test")


def test_points_and_accounts(tmp_path: Path) -> None:
    model = pt.load("embedded")
    vote = pt.majority_vote(num_samples=4)

    async def twice(prompt: Any, ask: Any, extract: Any) -> Any:
        """Two samples; the first is chosen."""
        from posttrain.search.base import select

        return select(await ask(prompt, 2), 0, extract)

    strategies = ["sample", vote, pt.best_of_n(num_samples=4, scorer="oracle"), twice]
    result = pt.tradeoff(model, TASK, strategies, [15, 90, 9999], output=tmp_path / "out")
    assert len(result.points) == 12 and len(result.ids) == 6
    for name in result.strategies:
        points = result.of(name)
        assert [p.budget for p in points] == [15, 90, 9999]
        assert all(p.flops and p.seconds > 0 and len(p.correct) == 6 for p in points)
    ran = result.of("twice")
    assert all(p.num_samples is None and p.tokens <= p.budget for p in ran)
    pooled = result.of(str(vote))
    assert pooled[0].num_samples == 1 and pooled[-1].num_samples == 4
    whole = pt.evaluate(model, TASK, search=vote)
    assert pooled[-1].tokens == pytest.approx(whole.accounts["sampled_tokens"])
    best = result.of(str(pt.best_of_n(num_samples=4, scorer="oracle")))
    assert best[-1].oracle and all(p.oracle is False for p in pooled)
    assert sum(best[-1].correct) >= sum(pooled[-1].correct)
    assert "sample" in str(result) and result.num_parameters
    assert json.loads((tmp_path / "out" / "tradeoff.json").read_text())["points"]


def test_wrong_calls_are_refused_before_weights(tmp_path: Path) -> None:
    place = str(tmp_path / "none")
    for strategies, budgets in (
        ([], [1]),
        (["sample"], []),
        (["sample"], [0]),
        (["best_of_n"], [9]),
    ):
        with pytest.raises(ConfigError):
            pt.tradeoff(place, TASK, strategies, budgets)
