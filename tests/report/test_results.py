"""Sections of results."""

from __future__ import annotations

import json
from pathlib import Path

from posttrain.report.html import write_report
from posttrain.report.records import BestOf, Interval, Measured, RewardMeasured
from posttrain.report.results import evaluation, reward_model
from posttrain.report.run_folder import read_run

REWARD = {
    "data": {
        "rows": 134,
        "format": "preference",
        "accuracy": {"estimate": 0.925, "low": 0.868, "high": 0.959, "n": 134},
        "margin": 0.643,
        "length_correlation": None,
    },
    "best_of": {
        "problems": 20,
        "left_out": 1,
        "num_samples": 4,
        "curve": [
            {"n": n, "kl": 0.1 * n, "gold": 0.2, "low": 0.1, "high": 0.3, "score": 1, "ceiling": 1}
            for n in (1, 2, 4)
        ],
        "gain": {"estimate": 0.3, "low": 0.15, "high": 0.45, "p_value": 0.0001, "n": 20},
    },
}


def test_the_report_of_a_reward_model_holds_its_measures(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("method: evaluate_reward\n")
    (tmp_path / "reward_evaluation.json").write_text(json.dumps(REWARD))
    run = read_run(tmp_path)
    assert run.reward is not None
    assert run.reward.on_rows["accuracy"] == Interval(0.925, 0.868, 0.959)
    assert "length_correlation" not in run.reward.on_rows  # null: not defined for these rows
    text = write_report(tmp_path).read_text()
    for part in ("92.5%", "86.8% to 95.9%", "0.643", "best of 4", "+0.300", "p &lt; 0.001"):
        assert part in text, part
    assert "problems left out" in text


def test_best_of_alone() -> None:
    point = BestOf(2, Interval(0.5, 0.4, 0.6), 0.75, 0.193, 1.5)
    text = reward_model(RewardMeasured(num_samples=2, problems=3, curve=(point,)))
    assert "0.500" in text and "0.750" in text and "held-out rows" not in text


def test_tokens_of_a_search_are_per_problem() -> None:
    numbers = {"mean_tokens": 170.0, "unparsed": 0.25}
    plain = Measured("t", 2, 1, {"accuracy": Interval(0.5, 0.1, 0.9)}, numbers, ())
    assert "tokens per completion" in evaluation(plain) and "25.0%" in evaluation(plain)
    search = Measured("t", 2, 1, {}, numbers, (), search="majority_vote")
    assert "tokens per problem" in evaluation(search)
