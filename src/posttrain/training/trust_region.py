"""TRPO's update: the natural gradient, as far as a bound on the KL divergence allows (arXiv
1502.05477).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from posttrain.averages import Averages
from posttrain.config import ModelConfig, TrustRegionConfig
from posttrain.data.forest import Batch, Forest
from posttrain.errors import ConfigError, ModelError
from posttrain.models.adapters import adapter_of
from posttrain.models.load import resolved_dtype
from posttrain.training.average import WeightAverage
from posttrain.training.objective import Objective
from posttrain.training.optim import Optimizer


def conjugate_gradient(
    product: Callable[[Tensor], Tensor], b: Tensor, num_solves: int, tolerance: float = 1e-10
) -> Tensor:
    """x with product(x) = b for a symmetric positive matrix that is known by its products
    (Hestenes and Stiefel 1952).
    """
    x, residual = torch.zeros_like(b), b.clone()
    direction, square = b.clone(), b.dot(b)
    for _ in range(num_solves):
        if square <= tolerance * b.dot(b):
            break
        image = product(direction)
        length = square / direction.dot(image).clamp(min=1e-30)
        x, residual = x + length * direction, residual - length * image
        new_square = residual.dot(residual)
        direction, square = residual + (new_square / square) * direction, new_square
    return x


def check_trusted(config: ModelConfig, place: str) -> None:
    """Refuse models whose weights the natural gradient cannot move, before they are loaded. place:
    the model's folder.

    Fresh adapters of PEFT are kept in float32 whatever the model's dtype is.

    Raises:
        ConfigError: AdaLoRA, whose ranks AdamW's steps choose; trained weights of less than
        float32.
    """
    saved = adapter_of(place)
    kind = (
        config.adapter.kind
        if config.adapter is not None
        else str((saved or {}).get("peft_type", "")).lower()
    )
    if kind == "adalora":
        raise ConfigError(
            "trust_region: adalora chooses its ranks by the steps of AdamW; use model.lora, or no "
            "trust_region"
        )
    own = (
        saved is None
        and config.lora is None
        and (config.adapter is None or config.adapter.own_weights)
    )
    if own and resolved_dtype(config.dtype, config.device) in (torch.bfloat16, torch.float16):
        raise ConfigError(
            f"trust_region needs weights in float32; model.dtype is {config.dtype!r}, set "
            "model.dtype: float32"
        )


class TrustRegion:
    """In place of AdamW for the policy; what else is trained (a critic) is left to AdamW.

    The step is s = sqrt(2 max_kl / g'F^-1 g) F^-1 g downhill, F the Fisher matrix of the next-token
    distributions at the step's targets, and is shortened until the loss falls and the mean KL(old
    || new) of those distributions is at most max_kl. If no length will do, the weights stay. F^-1 g
    comes from conjugate gradients; a product F v is the change of the gradient of KL between theta
    - e v and theta + e v, divided by 2 e: the backward passes of forest attention and of the
    vocabulary can be taken once but not differentiated again. Whole distributions [M, V] are held,
    so it is for small models.

    Args:
        model: its policy's parameters are float32 (or float64). objective: its loss is what has to
        fall; ratios need
            `old_logprobs` in the batch. rest: AdamW over all parameters, of which the policy's get
            no gradient by then.
    """

    def __init__(
        self,
        model: Any,
        objective: Objective,
        config: TrustRegionConfig,
        *,
        rest: Optimizer,
        max_tokens: int,
    ) -> None:
        if rest.penalties is not None:
            raise ConfigError("penalties: leave them out, or the trust region")
        self.model = model
        self.objective = objective
        self.config = config
        self.rest = rest
        self.max_tokens = max_tokens
        critic = getattr(model, "critic", None)
        others = {id(p) for p in critic.trainable_parameters()} if critic is not None else set()
        self.parameters = [p for p in model.trainable_parameters() if id(p) not in others]
        if any(p.dtype in (torch.bfloat16, torch.float16) for p in self.parameters):
            raise ModelError("trust_region needs weights in float32; set model.dtype: float32")
        self.last_metrics: dict[str, float] = {}

    @property
    def average(self) -> WeightAverage | None:
        """The average of all trained weights, None without."""
        return self.rest.average

    @property
    def memory(self) -> dict[str, int]:
        """Bytes that the optimiser of the rest keeps."""
        return self.rest.memory

    def penalize(self) -> Averages:
        """Nothing: penalties and a trust region exclude each other."""
        return Averages()

    def clip_gradients(self) -> float:
        """The norm of the policy's gradient, which is not clipped: the trust region bounds the
        step.
        """
        return float(self._flat_gradient().norm())

    def rate(self, step: int) -> float:
        """The learning rate of what AdamW trains."""
        return self.rest.rate(step)

    def step(self, step: int, batch: Batch) -> None:
        """Update the weights."""
        gradient = self._flat_gradient()
        for p in self.parameters:
            p.grad = None
        self.last_metrics = {
            "trust_region/kl": 0.0,
            "trust_region/step": 0.0,
            "trust_region/improvement": 0.0,
        }
        saved = [p.detach().clone() for p in self.parameters]
        self.model.eval()
        if batch.trees and gradient.any():
            self._policy_step(gradient, saved, batch)
        self.model.train()
        for p in self.parameters:
            p.grad = None
        self.rest.clip_gradients()  # of the critic alone by now
        self.rest.step(step, batch)

    def report(self, step: int, metrics: dict[str, float]) -> None:
        """A hook: what the last step was."""
        metrics.update(self.last_metrics)

    def state_dict(self) -> dict[str, Any]:
        return self.rest.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.rest.load_state_dict(state)

    def _policy_step(self, gradient: Tensor, saved: list[Tensor], batch: Batch) -> None:
        c = self.config
        micros = [m.to(self.model.device) for m in batch.split(self.max_tokens)]
        with torch.no_grad():
            old = [self._distributions(m) for m in micros]
            before = self._loss(micros, batch)

        def product(v: Tensor) -> Tensor:
            small = 1e-2 / float(v.norm().clamp(min=1e-30))
            ends = []
            for sign in (1.0, -1.0):
                self._move(saved, sign * small * v)
                ends.append(self._kl_gradient(micros, old))
            return (ends[0] - ends[1]) / (2 * small) + c.damping * v

        direction = conjugate_gradient(product, gradient, c.num_solves)
        curvature = float(direction.dot(product(direction)))
        full = math.sqrt(2 * c.max_kl / max(curvature, 1e-30))
        for attempt in range(c.num_backtracks):
            share = c.shrink**attempt
            self._move(saved, -share * full * direction)
            with torch.no_grad():
                kl = float(self._kl(micros, old))
                improvement = before - self._loss(micros, batch)
            if kl <= c.max_kl and improvement > 0:
                self.last_metrics = {
                    "trust_region/kl": kl,
                    "trust_region/step": share,
                    "trust_region/improvement": improvement,
                }
                return
        self._move(saved, torch.zeros_like(gradient))

    def _flat_gradient(self) -> Tensor:
        return torch.cat(
            [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in self.parameters]
        )

    def _move(self, saved: list[Tensor], change: Tensor) -> None:
        """The weights to what was saved plus a change."""
        start = 0
        with torch.no_grad():
            for p, value in zip(self.parameters, saved, strict=True):
                p.copy_(value + change[start : start + p.numel()].view_as(p))
                start += p.numel()

    def _distributions(self, micro: Forest) -> Tensor:
        """Log-probs [M, V] of the next tokens at the targets."""
        logits = self.model.head.logits(self.model.rows_at(micro, sources=True))
        return torch.log_softmax(logits / self.objective.temperature, dim=-1)

    def _kl_parts(self, micros: list[Forest], old: list[Tensor]) -> Iterator[Tensor]:
        """Shares of the mean KL(old || new) over targets; they add up."""
        count = max(sum(m.num_targets for m in micros), 1)
        for micro, before in zip(micros, old, strict=True):
            yield (before.exp() * (before - self._distributions(micro))).sum() / count

    def _kl(self, micros: list[Forest], old: list[Tensor]) -> Tensor:
        return torch.stack(list(self._kl_parts(micros, old))).sum()

    def _kl_gradient(self, micros: list[Forest], old: list[Tensor]) -> Tensor:
        for p in self.parameters:
            p.grad = None
        for part in self._kl_parts(micros, old):
            self.model.backward(part)
        return self._flat_gradient()

    def _loss(self, micros: list[Forest], batch: Batch) -> float:
        """The objective's loss on the batch, with the critic's part, which does not change here."""
        totals = self.objective.denominators(batch)
        total = 0.0
        for micro in micros:
            outputs = self.model.forward(
                micro, self.objective.needs, temperature=self.objective.temperature
            )
            total += float(self.objective(outputs, micro, totals)[0])
        return total
