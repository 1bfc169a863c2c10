"""A transformers model as one module: all that is computed from it is computed in one forward."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn


class Program(nn.Module):
    """A transformers model whose embeddings, trunk and heads run within one forward.

    The model's own forward knows of no forests, and the fast paths read parameters directly. So
    whatever computes with the parameters is called by this module's forward. Hooks of the module
    (`fully_shard` gathers parameters in them) then come before the first parameter is read and
    after the last.

    Attributes:
        hf: the PreTrainedModel, or a PeftModel around it.
    """

    def __init__(self, hf: Any) -> None:
        super().__init__()
        self.hf = hf

    def forward(self, compute: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """What `compute` returns of the arguments; it reads parameters of `hf`."""
        return compute(*args, **kwargs)


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode within, and every submodule's own mode back afterwards."""
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for submodule, mode in modes:
            submodule.training = mode


def cuda_devices(device: torch.device) -> list[torch.device]:
    """The devices whose random state a computation there may change."""
    return [device] if device.type == "cuda" else []


def whole_weights(model: Any) -> contextlib.AbstractContextManager[None]:
    """Within it all weights of a model are in this process, and passes without a gradient need no
    other one. Where a model is in shares (`models.sharding`), all processes enter it.
    """
    sharding = getattr(model, "sharding", None)
    return contextlib.nullcontext() if sharding is None else sharding.whole()
