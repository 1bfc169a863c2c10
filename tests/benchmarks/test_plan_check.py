"""The comparison of the cost model: a case at toy size, and its arithmetic."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from posttrain.training.cost import predict
from posttrain.training.devices import Device
from posttrain.training.shapes import Shape

from .loading import load

TOY = Shape(2, 64, 128, 4, 2, 16, 512, True, True)


@pytest.mark.parametrize("kind", ["sft_8bit", "dpo", "grpo"])
def test_a_case_runs_at_toy_size(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check = load("plan_check", monkeypatch)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.setitem(check.MODELS, "toy", TOY)
    monkeypatch.setattr(check, "SIZES", load("gpu_model", monkeypatch).Sizes.of("tiny"))
    found = check.run_case("toy", kind, 1)
    assert found["seconds"] > 0 and found["memory"] >= 0
    assert found["unshared"] >= found["tokens"] > found["targets"] > 0


def test_a_machine_that_costs_what_is_predicted_is_off_by_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Seconds that the model itself gives for known shares are fitted and predicted again."""
    check = load("plan_check", monkeypatch)
    known = Device(
        "known",
        1e11,
        1e10,
        math.inf,
        share_of_rate=0.3,
        share_of_bandwidth=0.3,
        start_seconds=1e-4,
        half=False,
    )
    cases: dict[str, dict[str, Any]] = {}
    for name in check.MODELS:
        for kind in check.KINDS:
            counts = {"tokens": 900.0, "unshared": 1500.0, "targets": 500.0, "memory": 2.0**20}
            work = check.workload(kind, counts)
            cost = predict(check.MODELS[name], work, check.layout(kind), known)
            cases[f"{name} {kind}"] = {**counts, "seconds": cost.step_seconds}
    device = check.fitted(known, cases)
    assert device.share_of_rate == pytest.approx(0.3)
    assert device.start_seconds == pytest.approx(1e-4)
    rows = check.compared(cases, device)
    assert [row["seconds_ratio"] for row in rows.values()] == pytest.approx([1.0] * len(rows))
    assert check.table(rows).count("\n") == len(rows) + 1
