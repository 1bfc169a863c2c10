"""A policy is fitted on a model, saved, and used as a strategy; its pilot is charged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import posttrain as pt
from posttrain.errors import ConfigError
from posttrain.tasks.arithmetic import arithmetic

SHORT: Any = {"max_tokens": 30}


def test_a_fitted_policy_is_a_strategy(tmp_path: Path) -> None:
    model = pt.load("embedded")
    task = arithmetic(num_steps=1, num_examples=8)
    choices = ["sample", pt.majority_vote(num_samples=4)]
    path = tmp_path / "policy.json"
    policy = pt.fit_policy(
        model, task, choices, [40, 90], pilot=2, num_bins=2, sampling=SHORT, path=path
    )
    assert set(policy.rules) == {40, 90} and path.is_file()
    estimates = policy.record["estimates"]
    assert all(0 <= e["accuracy"] <= 1 and e["tokens"] <= int(b) for b, e in estimates.items())
    search = pt.strategy.compute_optimal(path=str(path))
    result = pt.evaluate(model, task, search=search, budget=90, sampling=SHORT)
    assert all(sum(o.num_tokens) <= 90 for o in result.outcomes)
    assert all(o.notes["pilot_tokens"] <= sum(o.num_tokens) for o in result.outcomes)
    assert result.accounts["notes/pilot_tokens"] > 0


def test_what_no_policy_can_run_is_refused_before_weights(tmp_path: Path) -> None:
    task = arithmetic(num_steps=1, num_examples=4)
    for strategies in ([], ["value_beam"], ["best_of_n"], ["compute_optimal"]):
        with pytest.raises(ConfigError):
            pt.fit_policy(str(tmp_path / "none"), task, strategies, [10])
