"""Which curves a run shows, and in what order."""

from __future__ import annotations

import re
from typing import Any

from posttrain.report.curves import compared_curves, learning_curves, other_curves


def titles(charts: list[str]) -> list[str]:
    return [re.findall(r"<figcaption>([^<]*)<", chart)[0] for chart in charts]


def rows(**values: float) -> list[dict[str, Any]]:
    return [{"step": s, **{k: v * s for k, v in values.items()}} for s in (1, 2, 3)]


def test_reward_comes_before_the_loss_of_grpo() -> None:
    metrics = rows(loss=1e-8, reward=0.5, **{"rewards/a/mean": 0.2, "rewards/b/mean": 0.3})
    shown = titles(learning_curves(metrics))
    assert shown == ["reward ± standard deviation", "rewards by function", "loss"]


def test_preference_runs_show_accuracy_margin_and_rewards() -> None:
    names = ["accuracies", "margins", "chosen", "rejected"]
    charts = learning_curves(rows(loss=0.6, **{f"rewards/{name}": 0.1 for name in names}))
    assert titles(charts) == [
        "accuracy: chosen above rejected",
        "margin: chosen - rejected reward",
        "rewards of chosen and rejected",
        "loss",
    ]
    assert re.findall(r"<li [^>]*>(\w+)</li>", charts[2]) == ["chosen", "rejected"]


def test_reward_models_show_training_beside_held_out() -> None:
    metrics = rows(accuracy=0.3, eval_accuracy=0.2, margin=0.5, mean_reward=0.1, loss=0.6)
    charts = learning_curves(metrics)
    assert titles(charts)[:3] == ["accuracy of the scores", "margin of the scores", "scores (mean)"]
    assert re.findall(r"<li [^>]*>([\w ]+)</li>", charts[0]) == ["training", "held out"]


def test_memory_and_unknown_metrics_are_shown() -> None:
    metrics = rows(loss=1.0, **{"memory/peak_mib": 500.0, "mine/special": 2.0, "data/rows": 9.0})
    assert "peak memory, MiB" in titles(learning_curves(metrics))
    assert titles(other_curves(metrics)) == ["mine/special"]


def test_a_run_has_one_colour_in_all_charts() -> None:
    first, second = rows(loss=1.0), rows(loss=2.0, reward=0.5)
    reward, loss = compared_curves([("a", first), ("b", second)])
    assert re.findall(r'<li class="(s\d)">(\w)</li>', reward) == [("s1", "b")]
    assert re.findall(r'<li class="(s\d)">(\w)</li>', loss) == [("s0", "a"), ("s1", "b")]
