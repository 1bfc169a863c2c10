"""Elastic weight consolidation: parameters that mattered to earlier stages are held back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from posttrain.averages import Averages
from posttrain.data.forest import Batch, Tree
from posttrain.errors import ConfigError
from posttrain.models.language_model import LanguageModel
from posttrain.registry import retentions
from posttrain.retentions.base import (
    MAX_TOKENS,
    Retention,
    Stage,
    sequences_of,
    steps_of,
    trained_parameters,
)
from posttrain.training.plan import Learner, Plan


def diagonal_fisher(
    model: LanguageModel, batches: Iterator[Batch], num_sequences: int
) -> dict[str, Tensor]:
    """The diagonal of the Fisher information, by parameter: float32, of the parameter's shape.

        F = 1/S sum_s (d/dtheta log p(y_s | x_s))^2

    On rows this is the empirical Fisher. On completions that the model has sampled itself it is
    an estimate of the Fisher information of the model.

    Args:
        num_sequences: S. Trees are taken in the order of the batches; fewer where those end.
    Returns:
        zeros where there is no sequence.
    """
    parameters = trained_parameters(model)
    sums = {name: torch.zeros_like(p, dtype=torch.float32) for name, p in parameters.items()}
    count = 0
    was_training = model.hf.training
    model.eval()  # dropout would add its own noise to the squares
    for sequence in (Batch([Tree.build([s])]) for s in sequences_of(batches)):
        if count == num_sequences:
            break
        for p in parameters.values():
            p.grad = None
        for forest in sequence.split(MAX_TOKENS):
            outputs = model.forward(forest.to(model.device), frozenset({"logprobs"}))
            model.backward(-outputs["logprobs"].sum())
        for name, p in parameters.items():
            if p.grad is not None:
                sums[name] += p.grad.float().square()
            p.grad = None
        count += 1
    model.train(was_training)
    return {name: value / max(count, 1) for name, value in sums.items()}


class Elastic(Retention):
    """A quadratic form around the weights of earlier stages.

    Sum_k F_k (theta - theta_k)^2 = A (theta - c)^2 + rest, with A = sum_k F_k and c the mean of
    the theta_k weighted by F_k. So memory does not grow with the stages, and the form is exact.

    Args:
        decay: A is multiplied by it before a stage is added, and c is the last stage's weights
            (online EWC); None adds stages exactly.
        num_sequences: of a stage, for the Fisher information; 0 takes 1 for every parameter.
    """

    def __init__(self, weight: float, decay: float | None, num_sequences: int) -> None:
        self.weight, self.decay, self.num_sequences = weight, decay, num_sequences
        self.importance: dict[str, Tensor] = {}
        self.center: dict[str, Tensor] = {}
        self.rest = 0.0

    def begin(self, stage: Stage) -> Plan:
        """The plan with the pull towards earlier weights."""
        if not self.importance:
            return stage.plan
        return replace(stage.plan, rules=(*stage.plan.rules, self.hold))

    def hold(self, learner: Learner, step: int) -> Averages:
        """Add the gradient weight * A (theta - c) to that of the loss."""
        value = 0.0
        for name, p in trained_parameters(learner.model).items():
            distance = p.detach().float() - self.center[name]
            pull = self.weight * self.importance[name] * distance
            value += 0.5 * float((pull * distance).sum(dtype=torch.float64))
            pull = pull.to(p.dtype)
            p.grad = pull if p.grad is None else p.grad + pull
        metrics = Averages()
        metrics.total("loss", value + 0.5 * self.weight * self.rest)
        metrics.total("penalty/elastic", value + 0.5 * self.weight * self.rest)
        return metrics

    def end(self, stage: Stage) -> None:
        """Add the stage to the form."""
        model = stage.model
        if self.num_sequences:
            new = diagonal_fisher(model, steps_of(stage), self.num_sequences)
        else:
            new = {
                name: torch.ones_like(p, dtype=torch.float32)
                for name, p in trained_parameters(model).items()
            }
        for name, p in trained_parameters(model).items():
            self._add(name, new[name], p.detach().float())

    def _add(self, name: str, new: Tensor, theta: Tensor) -> None:
        """One more stage in the form, for one parameter."""
        if name not in self.importance:
            self.importance[name], self.center[name] = new.clone(), theta.clone()
            return
        old, center = self.importance[name], self.center[name]
        if self.decay is not None:
            self.importance[name], self.center[name] = self.decay * old + new, theta.clone()
            return
        both = old + new
        known = both > 0
        part = torch.where(known, new / torch.where(known, both, torch.ones_like(both)), 0.0)
        # (a, c1) and (b, c2) make (a + b) (theta - c)^2 + a b / (a + b) (c1 - c2)^2.
        self.rest += float((old * part * (center - theta).square()).sum(dtype=torch.float64))
        self.importance[name] = both
        self.center[name] = torch.where(known, center + part * (theta - center), theta)

    def state(self) -> dict[str, Tensor]:
        """The form."""
        form = {f"importance.{name}": value for name, value in self.importance.items()}
        form |= {f"center.{name}": value for name, value in self.center.items()}
        return {**form, "rest": torch.tensor(self.rest, dtype=torch.float64)} if form else {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restore the form."""
        for kind, values in (("importance.", self.importance), ("center.", self.center)):
            values.clear()
            values |= {k.removeprefix(kind): v for k, v in state.items() if k.startswith(kind)}
        self.rest = float(state["rest"]) if "rest" in state else 0.0


def _check_weight(name: str, weight: float) -> None:
    if not weight >= 0:
        raise ConfigError(f"{name}: weight is {weight}; it must not be negative")


@retentions.register
def ewc(
    *, weight: float = 400.0, decay: float | None = None, num_sequences: int = 256
) -> Retention:
    """Elastic weight consolidation (arXiv 1612.00796).

    L + weight / 2 sum_k sum_i F_ki (theta_i - theta_ki)^2

    F_k is the diagonal Fisher information of stage k's completions and theta_k the weights that it
    left. The sum over stages is held as one quadratic form, whose memory is twice the trained
    parameters.

    Args:
        weight: of the penalty.
        decay: gamma of online EWC (Progress and Compress, arXiv 1805.06370): F <- gamma F + F_k,
            around the last stage's weights; None = the exact sum.
        num_sequences: completions of a stage by which F is estimated.
    """
    _check_weight("ewc", weight)
    if decay is not None and not 0 <= decay <= 1:
        raise ConfigError(f"ewc: decay is {decay}; it must be from 0 to 1, or None")
    if num_sequences < 1:
        raise ConfigError(f"ewc: num_sequences is {num_sequences}; it must be at least 1")
    return Elastic(weight, decay, num_sequences)


@retentions.register
def l2_to_stages(*, weight: float = 1.0) -> Retention:
    """`ewc` with the same importance for every parameter: L + weight / 2 sum_k |theta - theta_k|^2.

    It is the baseline of arXiv 1612.00796.

    Args:
        weight: of the penalty.
    """
    _check_weight("l2_to_stages", weight)
    return Elastic(weight, None, 0)
