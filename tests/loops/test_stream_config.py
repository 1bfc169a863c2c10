"""Learning rates of stages, and settings out of range."""

from __future__ import annotations

from typing import Any

import pytest

from posttrain.errors import ConfigError
from posttrain.loops.stream_config import StreamConfig, of_one, stage_rates
from posttrain.training.optim import learning_rate_factor


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("rewarmed", [(1.0, 0.1, 0.2), (1.0, 0.1, 0.2)]),
        ("constant", [(1.0, 0.0, 0.0), (1.0, 0.0, 0.0)]),
        ("continued", [(1.0, 0.1, 0.5), (0.5, 0.0, 0.0)]),
    ],
)
def test_rates_of_stages(schedule: Any, rates: list[tuple[float, float, float]]) -> None:
    """(peak, warm-up, share at the end) of two stages."""
    stream = StreamConfig(learning_rate=1.0, rate_schedule=schedule)
    form = {"rewarmed": "cosine", "constant": "constant", "continued": "linear"}[schedule]
    for number, expected in enumerate(rates):
        found = stage_rates(stream, ("cosine", 0.1, 0.2), number, 2)
        names = ("learning_rate", "warmup_steps", "min_lr_ratio")
        assert tuple(found[name] for name in names) == pytest.approx(expected)
        assert found["lr_scheduler_type"] == form


def test_one_decay_over_all_stages_is_one_line() -> None:
    """Three stages of 4 steps without warm-up: 1, 11/12, ..., 1/12 of the peak."""
    stream = StreamConfig(learning_rate=12.0, rate_schedule="continued")
    found = []
    for number in range(3):
        rates = stage_rates(stream, ("cosine", 0.0, 0.1), number, 3)
        factors = {"warmup_steps": rates["warmup_steps"], "min_lr_ratio": rates["min_lr_ratio"]}
        form = rates["lr_scheduler_type"]
        found += [
            rates["learning_rate"] * learning_rate_factor(step, 4, schedule=form, **factors)
            for step in range(4)
        ]
    assert found == pytest.approx([12 - step for step in range(12)])


def test_one_domain_alone_is_rewarmed_or_constant() -> None:
    kinds = {
        k: of_one(StreamConfig(rate_schedule=k)).rate_schedule
        for k in ("rewarmed", "continued", "constant")
    }
    assert kinds == {"rewarmed": "rewarmed", "continued": "rewarmed", "constant": "constant"}
    one, other = StreamConfig(), StreamConfig(order="similar", replay_share=0.5, name="x")
    assert one.alone_key == other.alone_key != StreamConfig(batch_size=3).alone_key


@pytest.mark.parametrize(
    "settings",
    [
        {"replay_share": 1.0},
        {"replay_share": -0.1},
        {"batch_size": 0},
        {"learning_rate": -1.0},
        {"train_characters": 0},
    ],
)
def test_values_out_of_range_are_refused(settings: Any) -> None:
    with pytest.raises(ConfigError):
        StreamConfig(**settings).check("streams[0]")
