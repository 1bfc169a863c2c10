"""Gradient projections: an update may not raise the loss of earlier stages, to first order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from posttrain.averages import Averages
from posttrain.errors import ConfigError
from posttrain.registry import retentions
from posttrain.retentions.base import Retention, Stage, source_of, trained_parameters
from posttrain.retentions.replay import smaller
from posttrain.sources.rows import Source
from posttrain.training.objective import Objective
from posttrain.training.plan import Learner, Plan

Gradient = list[Tensor]
"""One tensor per trained parameter, float32."""


def gradient_of(learner: Learner, objective: Objective, source: Source, step: int) -> Gradient:
    """The gradient of an objective on the first batch of a source's step.

    The gradients that the parameters hold are left as they are.
    """
    model = learner.model
    parameters = list(trained_parameters(model).values())
    held = [p.grad for p in parameters]
    for p in parameters:
        p.grad = None
    batch = next(iter(source.batches(step)))
    totals = objective.denominators(batch)
    for micro in batch.split(learner.max_tokens):
        micro = micro.to(model.device)
        outputs = model.forward(micro, objective.needs, temperature=objective.temperature)
        loss, _ = objective(outputs, micro, totals)
        model.backward(loss)
    gradient = [_float(p, p.grad) for p in parameters]
    for p, grad in zip(parameters, held, strict=True):
        p.grad = grad
    return gradient


def _float(parameter: Any, gradient: Tensor | None) -> Tensor:
    return torch.zeros_like(parameter).float() if gradient is None else gradient.float()


def dot(a: Gradient, b: Gradient) -> float:
    """Inner product, summed in float64."""
    return sum(float((x * y).sum(dtype=torch.float64)) for x, y in zip(a, b, strict=True))


def nearest_in_cone(gram: np.ndarray, products: np.ndarray) -> np.ndarray:
    """v >= 0 such that g + sum_k v_k g_k is the nearest to g with no negative product with any g_k.

    It is the dual of GEM's quadratic programme (arXiv 1706.08840, eq. 11): minimise
    1/2 v^T G G^T v + (G g)^T v over v >= 0, by coordinate descent.

    Args:
        gram [K, K]: G G^T, products of the g_k. products [K]: G g.
    """
    v = np.zeros(len(products))
    scale = float(np.abs(products).max(initial=0.0)) + 1e-300
    for _ in range(10_000):
        for k in range(len(v)):
            if gram[k, k] > 0:
                slope = products[k] + gram[k] @ v
                v[k] = max(0.0, v[k] - slope / gram[k, k])
        slopes = products + gram @ v
        if (slopes >= -1e-10 * scale).all() and np.abs(v * slopes).max() <= 1e-10 * scale:
            break
    return v


class Projection(Retention):
    """Gradients of earlier stages' rows bound that of the stage.

    Args:
        average: one gradient of all earlier stages together (A-GEM), not one each (GEM).
    """

    def __init__(self, batch_size: int, buffer_size: int | None, *, average: bool) -> None:
        self.batch_size, self.buffer_size, self.average = batch_size, buffer_size, average

    def begin(self, stage: Stage) -> Plan:
        """The plan with the projection."""
        if not stage.earlier:
            return stage.plan
        plans = [smaller(p, self.batch_size, self.buffer_size) for p in stage.earlier]
        rule = _Rule(plans, stage.seed, average=self.average)
        return replace(stage.plan, rules=(*stage.plan.rules, rule))


class _Rule:
    """Projects the gradient where it disagrees with those of earlier stages."""

    def __init__(self, plans: Sequence[Plan], seed: int, *, average: bool) -> None:
        self.plans, self.seed, self.average = plans, seed, average
        self._sources: list[Source] = []

    def __call__(self, learner: Learner, step: int) -> Averages:
        if not self._sources:
            self._sources = [source_of(p, learner.model, self.seed) for p in self.plans]
        places = range(len(self.plans))
        if self.average:  # A-GEM draws its memory from all stages; one stage per step does in mean
            draw = np.random.default_rng((self.seed, step, 5))
            places = range(first := int(draw.integers(len(self.plans))), first + 1)
        memory = [
            gradient_of(learner, self.plans[k].objective, self._sources[k], step) for k in places
        ]
        parameters = list(trained_parameters(learner.model).values())
        gradient = [_float(p, p.grad) for p in parameters]
        products = np.array([dot(gradient, g) for g in memory])
        gram = np.array([[dot(a, b) for b in memory] for a in memory])
        v = nearest_in_cone(gram, products) if (products < 0).any() else np.zeros(len(memory))
        for weight, old in zip(v, memory, strict=True):
            if weight:
                gradient = [g + float(weight) * o for g, o in zip(gradient, old, strict=True)]
        if v.any():
            for p, g in zip(parameters, gradient, strict=True):
                p.grad = g.to(p.dtype)
        metrics = Averages()
        metrics.add("projection/share", float(v.any()), 1.0)
        norms = np.sqrt(np.diag(gram)) * np.sqrt(max(dot(gradient, gradient), 1e-300))
        metrics.add("projection/cosine", float((products / np.maximum(norms, 1e-300)).mean()), 1.0)
        return metrics


class Orthogonal(Retention):
    """Directions in which earlier stages' log-likelihoods change, which updates leave alone."""

    def __init__(self, num_directions: int) -> None:
        self.num_directions = num_directions
        self.directions: list[Gradient] = []

    def begin(self, stage: Stage) -> Plan:
        """The plan with the projection."""
        if not self.directions:
            return stage.plan
        return replace(stage.plan, rules=(*stage.plan.rules, self.project))

    def project(self, learner: Learner, step: int) -> Averages:
        """g <- g - sum_k (g . v_k) v_k."""
        parameters = list(trained_parameters(learner.model).values())
        gradient = [_float(p, p.grad) for p in parameters]
        before = dot(gradient, gradient)
        gradient = without(gradient, self.directions)
        for p, g in zip(parameters, gradient, strict=True):
            p.grad = g.to(p.dtype)
        metrics = Averages()
        left = dot(gradient, gradient) / before if before > 0 else 1.0
        metrics.add("projection/remaining_norm", left**0.5, 1.0)
        return metrics

    def end(self, stage: Stage) -> None:
        """Take directions from rows of the stage."""
        plan = smaller(stage.plan, 1)
        source = source_of(plan, stage.model, stage.seed)
        learner = Learner(stage.model, None, 2048)
        for step in range(self.num_directions):
            gradient = without(gradient_of(learner, plan.objective, source, step), self.directions)
            norm = dot(gradient, gradient) ** 0.5
            if norm > 1e-8:  # else it lies in the span of those that are there
                self.directions.append([g / norm for g in gradient])

    def state(self) -> dict[str, Tensor]:
        """The directions."""
        return {
            f"{k}.{i}": part
            for k, direction in enumerate(self.directions)
            for i, part in enumerate(direction)
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restore the directions."""
        places = sorted(tuple(map(int, name.split("."))) for name in state)
        self.directions = [[] for _ in {k for k, _ in places}]
        for k, i in places:
            self.directions[k].append(state[f"{k}.{i}"])


def without(gradient: Gradient, directions: Sequence[Gradient]) -> Gradient:
    """A gradient without its parts along orthonormal directions; twice, against rounding."""
    for _ in range(2):
        for direction in directions:
            size = dot(gradient, direction)
            gradient = [g - size * d for g, d in zip(gradient, direction, strict=True)]
    return gradient


def _check(name: str, batch_size: int, buffer_size: int | None) -> None:
    for key, value in (("batch_size", batch_size), ("buffer_size", buffer_size)):
        if value is not None and value < 1:
            raise ConfigError(f"{name}: {key} is {value}; it must be at least 1")


@retentions.register
def agem(*, batch_size: int = 16, buffer_size: int | None = None) -> Retention:
    """Averaged gradient episodic memory (arXiv 1812.00420).

    If g . g_ref < 0:  g <- g - (g . g_ref / |g_ref|^2) g_ref

    g_ref is the gradient of the loss on rows of an earlier stage, drawn anew each step. It costs
    one more forward and backward pass.

    Args:
        batch_size: rows of an earlier stage per step.
        buffer_size: rows or problems that are kept of each stage, the first ones; None = all.
    """
    _check("agem", batch_size, buffer_size)
    return Projection(batch_size, buffer_size, average=True)


@retentions.register
def gem(*, batch_size: int = 16, buffer_size: int | None = None) -> Retention:
    """Gradient episodic memory (arXiv 1706.08840).

    The update follows the nearest vector to g whose product with the gradient of each earlier
    stage is not negative. It costs a forward and backward pass per earlier stage.

    Args:
        batch_size: rows of each earlier stage per step.
        buffer_size: rows or problems that are kept of each stage, the first ones; None = all.
    """
    _check("gem", batch_size, buffer_size)
    return Projection(batch_size, buffer_size, average=False)


@retentions.register
def ogd(*, num_directions: int = 16) -> Retention:
    """Orthogonal gradient descent (arXiv 1910.07104).

    g <- g - sum_k (g . v_k) v_k, where v_k is an orthonormal basis of the loss's gradients on rows
    of earlier stages, taken at the end of each. A direction has the size of the trained
    parameters, so that this suits adapters.

    Args:
        num_directions: rows of each stage whose gradients are kept.
    """
    if num_directions < 1:
        raise ConfigError(f"ogd: num_directions is {num_directions}; it must be at least 1")
    return Orthogonal(num_directions)
