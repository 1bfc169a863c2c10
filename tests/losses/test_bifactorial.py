"""The order that bfpo drives a pair into, by the four verdicts on its safety."""

from __future__ import annotations

import pytest
import torch

from posttrain.data.safety import safety_margins
from posttrain.losses.bifactorial import bfpo


@pytest.mark.parametrize(
    ("safe", "gap"), [((1, 1), 0.5), ((1, 0), 1.0), ((0, 1), -1.0), ((0, 0), -0.5)]
)
def test_the_least_is_where_the_log_ratios_differ_by_the_margin(
    safe: tuple[int, int], gap: float
) -> None:
    (row,) = safety_margins([{"chosen_safe": safe[0], "rejected_safe": safe[1]}])
    c = torch.tensor([0.3], requires_grad=True)
    zero = torch.zeros(1)
    for tau in (1.0, 0.5):
        at_goal = torch.tensor([gap / tau])
        value, _ = bfpo(at_goal, zero, zero, zero, torch.tensor([row["margin"]]), tau=tau)
        assert value.item() == pytest.approx(0.0, abs=1e-12)
    value, metrics = bfpo(c, zero, zero, zero, torch.tensor([row["margin"]]))
    value.sum().backward()
    assert c.grad is not None and c.grad.item() == pytest.approx(2 * (0.3 - gap))
    assert metrics["rewards/margins"].item() == pytest.approx(0.3)


def test_tau_is_above_0() -> None:
    zero = torch.zeros(1)
    with pytest.raises(ValueError):
        bfpo(zero, zero, zero, zero, zero, tau=0.0)
