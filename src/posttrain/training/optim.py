"""Updates with a schedule, gradient clipping, and float32 master weights for bfloat16 models."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch
from torch import nn

from posttrain.averages import Averages
from posttrain.config import Schedule
from posttrain.errors import CheckpointError
from posttrain.training.average import WeightAverage
from posttrain.training.penalties import Penalties
from posttrain.training.update_rules import RULE_NAMES, UpdateRule, state_bytes


def learning_rate_factor(
    step: int, steps: int, *, schedule: Schedule, warmup_steps: float, min_lr_ratio: float
) -> float:
    """The factor on the peak learning rate at a step: a pure function, so that resuming needs no
    scheduler state.

    Args:
        step: from 0. steps: of the whole run. warmup_steps: a count, or a share of `steps` when
        below 1.
        min_lr_ratio: where linear and cosine end.
    """
    warmup = round(warmup_steps * steps) if warmup_steps < 1 else int(warmup_steps)
    if schedule != "constant" and step < warmup:
        return (step + 1) / (warmup + 1)
    if schedule in ("constant", "constant_with_warmup"):
        return 1.0
    progress = (step - warmup) / max(steps - warmup, 1)
    shape = 1 - progress if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return min_lr_ratio + (1 - min_lr_ratio) * shape


class Updates(Protocol):
    """What adapters do beside gradient descent."""

    def before(self) -> None:
        """Change the gradients, before they are clipped."""
        ...

    def after(self, step: int) -> None:
        """Change the weights after the update of a step (from 0), while gradients are still
        there.
        """
        ...


class Optimizer:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101) over the trainable parameters of a model, or
    another rule (`training.update_rules`).

    Weight decay applies to matrices only, as is usual. bfloat16 parameters are updated through
    float32 copies: at learning rates of fine-tuning most updates are below bfloat16's resolution
    and would be lost.

    Attributes:
        rules: torch's optimisers by the name of their rule. average: of the weights, None without.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        steps: int,
        learning_rate: float,
        weight_decay: float = 0.0,
        rule: UpdateRule | None = None,
        schedule: Schedule = "linear",
        warmup_steps: float = 0.0,
        min_lr_ratio: float = 0.0,
        max_grad_norm: float = 1.0,
        rate_factors: Mapping[nn.Parameter, float] | None = None,
        updates: Updates | None = None,
        penalties: Penalties | None = None,
        ema_decay: float = 0.0,
    ) -> None:
        self.parameters = [p for p in parameters if p.requires_grad]
        self.masters = [
            p.detach().float().clone() if p.dtype in (torch.bfloat16, torch.float16) else p
            for p in self.parameters
        ]
        self.updates = updates
        self.penalties = penalties
        rule = rule or UpdateRule()
        groups = self._groups(rule, rate_factors or {}, weight_decay)
        self.rules = rule.optimizers(groups, learning_rate)
        self.average = (
            WeightAverage(self.parameters, self.masters, ema_decay) if ema_decay > 0 else None
        )
        self.steps = steps
        self.learning_rate = learning_rate
        self.max_grad_norm = max_grad_norm
        self._factor: dict[str, Any] = {
            "schedule": schedule,
            "warmup_steps": warmup_steps,
            "min_lr_ratio": min_lr_ratio,
        }

    def _groups(
        self, rule: UpdateRule, factors: Mapping[nn.Parameter, float], weight_decay: float
    ) -> dict[str, list[dict[str, Any]]]:
        """Parameter groups by rule: those of one factor and decay together, as they come."""
        groups: dict[tuple[str, float, float], list[Any]] = {}
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            decay = weight_decay if master.ndim >= 2 else 0.0
            key = (rule.name_for(parameter), factors.get(parameter, 1.0), decay)
            groups.setdefault(key, []).append(master)
        by_rule: dict[str, list[dict[str, Any]]] = {}
        for (name, factor, decay), some in groups.items():
            group = {"params": some, "weight_decay": decay, "factor": factor}
            by_rule.setdefault(name, []).append(group)
        return by_rule

    @property
    def memory(self) -> dict[str, int]:
        """Bytes of what the updates keep: "moments" of the rules (from the first step on), float32
        "copies" of the weights, and their "average".
        """
        copies = [m for p, m in zip(self.parameters, self.masters, strict=True) if m is not p]
        average = self.average.values if self.average is not None else []
        return {
            "moments": sum(state_bytes(rule) for rule in self.rules.values()),
            "copies": sum(m.numel() * m.element_size() for m in copies),
            "average": sum(v.numel() * v.element_size() for v in average),
        }

    def rate(self, step: int) -> float:
        """The learning rate of a step (from 0)."""
        return self.learning_rate * learning_rate_factor(step, self.steps, **self._factor)

    def penalize(self) -> Averages:
        """Add the gradients of the penalties to those of the loss; their values, as metrics."""
        if self.penalties is None:
            return Averages()
        return self.penalties.add_gradients(dict(zip(self.parameters, self.masters, strict=True)))

    def clip_gradients(self) -> float:
        """Scale the gradients to a norm of at most max_grad_norm (0 = no bound); returns the
        norm before that.
        """
        if self.updates is not None:
            self.updates.before()
        with_gradient = [p for p in self.parameters if p.grad is not None]
        bound = self.max_grad_norm if self.max_grad_norm > 0 else math.inf
        if not with_gradient:
            return 0.0
        norm = nn.utils.get_total_norm([p.grad for p in with_gradient if p.grad is not None])
        if math.isinf(_number(norm)) and not hasattr(norm, "full_tensor"):
            norm = _wide_norm(with_gradient)
        nn.utils.clip_grads_with_norm_(with_gradient, bound, norm)
        return _number(norm)

    def step(self, step: int, batch: Any = None) -> None:
        """Update the weights at the learning rate of `step`, and clear the gradients. (The
        batch is of use to others.)
        """
        for rule in self.rules.values():
            for group in rule.param_groups:
                group["lr"] = self.rate(step) * group["factor"]
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            if master is not parameter:
                master.grad = None if parameter.grad is None else parameter.grad.float()
        for rule in self.rules.values():
            rule.step()
        if self.updates is not None:
            self.updates.after(step)
        with torch.no_grad():
            for parameter, master in zip(self.parameters, self.masters, strict=True):
                if master is not parameter:
                    parameter.copy_(master)
                    master.grad = None
                parameter.grad = None
        if self.average is not None:
            self.average.update()

    def _order(self) -> list[int]:
        """The places in `parameters` of the rules' parameters, rule by rule, in the order in which
        each numbers them.
        """
        place = {id(m): i for i, m in enumerate(self.masters)}
        groups = [group for rule in self.rules.values() for group in rule.param_groups]
        return [place[id(m)] for group in groups for m in group["params"]]

    def state_dict(self) -> dict[str, Any]:
        """Everything that an exact resume needs."""
        masters = {
            i: m
            for i, (p, m) in enumerate(zip(self.parameters, self.masters, strict=True))
            if m is not p
        }
        state: dict[str, Any] = {name: rule.state_dict() for name, rule in self.rules.items()}
        state |= {"order": self._order(), "masters": masters}
        start = self.penalties.state_dict() if self.penalties is not None else {}
        if start:
            state["start"] = start
        if self.average is not None:
            state["average"] = self.average.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore moments, counts and float32 copies; rates, betas, epsilon and decay stay this
        optimiser's own.
        """
        if self.penalties is not None:
            self.penalties.load_state_dict(state.get("start", {}))
        order, saved = self._order(), state["order"]
        if len(order) != len(saved):
            raise CheckpointError(
                f"the checkpoint's optimiser has {len(saved)} parameters, this model trains "
                f"{len(order)}"
            )
        others = [name for name in RULE_NAMES if (name in state) != (name in self.rules)]
        if others:
            before = [name for name in RULE_NAMES if name in state]
            raise CheckpointError(
                f"the checkpoint's optimiser is {' and '.join(before)}, this run's is "
                f"{' and '.join(self.rules)}; set optimizer as it was, or start a new run"
            )
        # Settings decide how parameters are grouped, and a rule numbers them by group: states go by
        # parameter instead.
        for name, rule in self.rules.items():
            groups = state[name]["param_groups"]
            count = sum(len(group["params"]) for group in groups)
            place = {parameter: number for number, parameter in enumerate(saved[:count])}
            ours = order[:count]
            if set(ours) != place.keys():
                raise CheckpointError(
                    f"the checkpoint's {name} updates other parameters than this run's; load the "
                    "model as it was, or start a new run"
                )
            states = state[name]["state"]
            moved = {i: states[place[p]] for i, p in enumerate(ours) if place[p] in states}
            rule.load_state_dict(
                {"state": moved, "param_groups": rule.state_dict()["param_groups"]}
            )
            order, saved = order[count:], saved[count:]
        with torch.no_grad():
            for i, master in state["masters"].items():
                self.masters[i].copy_(master)
        if self.average is not None:
            self.average.load_state_dict(state.get("average", {}))


def _wide_norm(parameters: Iterable[nn.Parameter]) -> torch.Tensor:
    """The norm of gradients whose squares overflow float32, which are finite all the same: by
    float64.
    """
    squares = [p.grad.double().square().sum() for p in parameters if p.grad is not None]
    return torch.stack([x.cpu() for x in squares]).sum().sqrt()


def _number(norm: torch.Tensor) -> float:
    """A norm as a number; that of gradients in shares is over all processes."""
    whole = getattr(norm, "full_tensor", None)
    return float(norm if whole is None else whole())
