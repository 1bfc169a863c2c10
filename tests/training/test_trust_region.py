"""What the trust region leaves to AdamW."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from posttrain.config import TrustRegionConfig
from posttrain.data.forest import Batch
from posttrain.training.optim import Optimizer
from posttrain.training.trust_region import TrustRegion


def test_the_critic_is_clipped_and_a_step_without_gradient_tells_of_no_other() -> None:
    policy, critic = (torch.nn.Parameter(torch.zeros(4)) for _ in range(2))
    model: Any = SimpleNamespace(
        trainable_parameters=lambda: [policy, critic],
        critic=SimpleNamespace(trainable_parameters=lambda: [critic]),
        eval=lambda: None,
        train=lambda: None,
    )
    norms: list[float] = []

    class Watched(Optimizer):
        def step(self, step: int, batch: Any = None) -> None:
            assert policy.grad is None and critic.grad is not None
            norms.append(float(critic.grad.norm()))
            super().step(step, batch)

    rest = Watched([policy, critic], steps=1, learning_rate=0.1, max_grad_norm=0.5)
    region = TrustRegion(model, None, TrustRegionConfig(), rest=rest, max_tokens=100)
    region.last_metrics = {"trust_region/step": 1.0}
    policy.grad, critic.grad = torch.ones(4), torch.full((4,), 10.0)
    assert region.clip_gradients() == 2.0
    region.step(0, Batch([]))
    assert abs(norms[0] - 0.5) < 1e-5 and not policy.any() and critic.all()
    told: dict[str, float] = {}
    region.report(1, told)
    assert told["trust_region/step"] == 0


def test_conjugate_gradient_solves() -> None:
    from posttrain.training.trust_region import conjugate_gradient

    draw = torch.Generator().manual_seed(0)
    root = torch.randn(6, 6, generator=draw, dtype=torch.float64)
    matrix, b = root @ root.T + torch.eye(6), torch.randn(6, generator=draw, dtype=torch.float64)
    torch.testing.assert_close(
        conjugate_gradient(lambda v: matrix @ v, b, 20), torch.linalg.solve(matrix, b)
    )
