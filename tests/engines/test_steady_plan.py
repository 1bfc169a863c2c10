"""A plan whose steps can be recorded gives what the plain one gives."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from posttrain.engines.decode import DecodePlan, KeyValues
from posttrain.engines.steady_plan import SteadyPlan


def prompts() -> list[KeyValues]:
    generator = torch.Generator().manual_seed(0)

    def some(length: int) -> torch.Tensor:
        return torch.randn(2, length, 8, generator=generator, dtype=torch.float64)

    return [[(some(n), some(n))] for n in (5, 3)]


def test_it_attends_as_the_plain_plan_does_while_rows_leave() -> None:
    generator = torch.Generator().manual_seed(1)
    plans = [
        plan(prompts(), torch.tensor([0, 0, 1]), torch.full((3,), 20))
        for plan in (DecodePlan, SteadyPlan)
    ]
    steady: Any = plans[1]
    module: Any = SimpleNamespace(layer_idx=0)
    rows, shapes = 3, []
    for step in range(6):
        query = torch.randn(rows, 4, 1, 8, generator=generator, dtype=torch.float64)
        key, value = (
            torch.randn(rows, 2, 1, 8, generator=generator, dtype=torch.float64) for _ in "kv"
        )
        plain, steadied = (p.attend(module, query, key, value, scaling=0.4) for p in plans)
        torch.testing.assert_close(steadied, plain)
        shapes.append(steady.shape)
        for plan in plans:
            plan.advance()
        if step == 2:
            for plan in plans:
                plan.keep(torch.tensor([0, 2]))
            rows = 2
    assert steady.dtype == torch.float64
    # The same operators until rows leave, and again afterwards.
    assert len(set(shapes[:3])) == len(set(shapes[3:])) == 1 and shapes[2] != shapes[3]
