"""Penalties of a run: their gradients, their values, and the weights at the start."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from posttrain import registry
from posttrain.averages import Averages
from posttrain.config import Component
from posttrain.errors import CheckpointError, ConfigError


@dataclass(frozen=True, slots=True)
class _Penalty:
    name: str
    function: Callable[..., Tensor]
    inputs: tuple[str, ...]
    weight: float


class Penalties:
    """Sum over penalties and trained tensors of weight * penalty(tensor).

    The start is that of the run: it is copied here, saved with the optimiser's state, and read
    back from there on resume.

    Args:
        components: penalties by name or function, with settings and weight.
        parameters: trained tensors by name.
    Raises:
        ConfigError: an unknown penalty or setting, or a weight below 0.
    """

    def __init__(
        self, components: Sequence[Component], parameters: Iterable[tuple[str, nn.Parameter]]
    ) -> None:
        self._penalties = [_penalty(component) for component in components]
        self._parameters = {name: p for name, p in parameters if p.requires_grad}
        self._needs_start = any("start" in penalty.inputs for penalty in self._penalties)
        # In the parameters' own type: float32 copies of half precision begin at the same numbers.
        self._start = (
            {name: p.detach().clone() for name, p in self._parameters.items()}
            if self._needs_start
            else {}
        )

    def add_gradients(self, masters: Mapping[nn.Parameter, Tensor]) -> Averages:
        """Add the gradients to those of the loss; their values are shares of `loss`, and
        `penalty/NAME`.

        Args:
            masters: float32 copies of parameters in half precision, where distances are measured.
        """
        metrics = Averages()
        for name, parameter in self._parameters.items():
            point = masters.get(parameter, parameter).detach().float().requires_grad_()
            inputs = {"parameter": point}
            if self._needs_start:
                inputs["start"] = self._start[name].float()
            for penalty in self._penalties:
                with torch.enable_grad():
                    value = penalty.weight * penalty.function(*(inputs[i] for i in penalty.inputs))
                    (gradient,) = torch.autograd.grad(value, point, materialize_grads=True)
                gradient = gradient.to(parameter.dtype)
                if parameter.grad is None:
                    parameter.grad = gradient
                else:
                    parameter.grad += gradient
                metrics.total("loss", value.detach())
                metrics.total(f"penalty/{penalty.name}", value.detach())
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """The weights at the start of the run, if a penalty measures from there."""
        return dict(self._start)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` gave.

        Raises:
            CheckpointError: the run did not keep the weights of its start.
        """
        missing = sorted(self._start.keys() - state.keys())
        if missing:
            raise CheckpointError(
                f"penalties: the checkpoint holds no weights of the run's start for {missing[0]!r},"
                " which a penalty measures from; resume without it, or start a new run"
            )
        for name, start in self._start.items():
            start.copy_(state[name])


def _penalty(item: Component) -> _Penalty:
    if not item.weight >= 0:
        raise ConfigError(f"penalties: the weight {item.weight} of {item.name!r} is below 0")
    entry = registry.penalties.entry_of(item)
    return _Penalty(item.name, registry.penalties.bind_of(item), entry.inputs, item.weight)
