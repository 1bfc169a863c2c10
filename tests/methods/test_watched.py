"""A watched training on the embedded model: metrics, a rule that ends it, exact resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import posttrain as pt
from posttrain.errors import ConfigError
from posttrain.report.html import write_report
from posttrain.tasks.arithmetic import arithmetic

SUMS = arithmetic(num_steps=1, num_examples=16)
SMALL: dict[str, Any] = {"num_generations": 4, "batch_size": 2, "sampling": {"max_tokens": 8}}


def shortness(completions) -> list[float]:
    return [-float(len(text)) for text in completions]


def plan(**watch: Any) -> pt.Plan:
    return pt.grpo(SUMS, rewards=[shortness], learning_rate=1e-3, watch=pt.Watch(**watch), **SMALL)


def test_metrics_stand_beside_the_others_and_in_the_report(tmp_path: Path) -> None:
    watched = plan(gold=["task"], kl_every=2, probe_every=2, probes=["empty", "echo"])
    result = pt.fit("embedded", watched, steps=2, output=tmp_path / "run")
    row = result.metrics[-1]
    assert row["watch/proxy"] == pytest.approx(row["reward"])
    assert 0 <= row["watch/gold"] <= 1 and row["watch/kl"] >= 0
    assert row["watch/probe/empty"] == 0.0 and row["watch/alarm/probes"] == 1.0
    assert result.rollouts[0]["completions"][0]["rewards"].keys() == {"shortness"}
    page = write_report(tmp_path / "run").read_text()
    assert "Reward hacking" in page and "a known exploit" in page


def test_watching_changes_no_weight() -> None:
    bare = pt.grpo(SUMS, rewards=[shortness], learning_rate=1e-3, **SMALL)
    one = pt.fit("embedded", bare, steps=2).model
    two = pt.fit("embedded", plan(gold=["task"], kl_every=1, probe_every=1), steps=2).model
    for a, b in zip(one.hf.parameters(), two.hf.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_rule_ends_the_run_and_leaves_a_model(tmp_path: Path) -> None:
    ending = plan(probe_every=1, probes=["empty"], stop_on=["probes"], patience=2)
    folder = tmp_path / "run"
    result = pt.fit("embedded", ending, steps=5, output=folder)
    assert result.metrics[-1]["step"] == 2 and (folder / "model").is_dir()
    again = pt.fit("embedded", ending, steps=5, output=folder, resume=True)
    assert again.metrics[-1]["step"] == 2


def test_a_watch_resumes_exactly(tmp_path: Path) -> None:
    def run(folder: Path, **options: Any) -> Any:
        watched = plan(gold=["task"], window=1)
        return pt.fit("embedded", watched, output=folder, save_every=2, **options)

    whole = run(tmp_path / "whole", steps=4)
    run(tmp_path / "parts", steps=2)
    parts = run(tmp_path / "parts", steps=4, resume=True)
    for name in ("watch/gold", "watch/proxy", "watch/alarm/gold_falls", "watch/alarm/length"):
        assert whole.metrics[name] == parts.metrics[name], name


@pytest.mark.parametrize(
    "watch",
    [
        {"gold": [shortness]},
        {"stop_on": ["gold_falls"]},
        {"stop_on": ["probes"]},
        {"window": 0},
        {"patience": 0},
        {"gold_every": 0},
        {"kl_every": -1},
        {"probe_every": -1},
        {"max_growth": 1.0},
        {"max_drop": 1.0},
        {"probe_every": 1, "probes": []},
        {"gold": ["tusk"]},
        {"stop_on": ["gold"]},
    ],
)
def test_a_watch_that_sees_nothing_is_refused(watch: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        plan(**watch)


def test_a_recipe_names_a_watch() -> None:
    from posttrain.recipe import parse_recipe

    recipe = parse_recipe(
        {
            "method": "grpo",
            "model": "embedded",
            "task": "arithmetic",
            "rewards": ["task"],
            "watch": {"gold": ["exact"], "stop_on": ["gold_falls"]},
        },
        base=Path(),
    )
    assert recipe.settings["watch"].gold == ["exact"]
