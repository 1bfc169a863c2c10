"""CPU and CUDA fast paths behind one interface. No model needs them: each stands in for something
that a model's own modules compute, and is compared with it before it is used.

    setup           the process-wide switches, chosen once; all off by default
    for_model       the fast trunk of a decoder, or None
    computing       the scope of a model's forward or backward pass

Modules: `process` (switches), `products` (float32 matrix products on a CPU), `layer` (the record of
a Llama-like layer), `fused` (a layer as one differentiable function), `columns` (a decoding step),
`forest_cpu` (attention over a forest), `graphs` (CUDA graphs of decoding steps), `agreement` (how
near a fast path has to be).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

from torch import Tensor

from posttrain.kernels.fused import ForestAttention, fused_trunk
from posttrain.kernels.process import Switches, reset, setup, switches
from posttrain.kernels.products import fast_products, kernel_products

__all__ = [
    "ForestAttention",
    "Switches",
    "Trunk",
    "computing",
    "for_model",
    "reset",
    "setup",
    "switches",
]


class Trunk(Protocol):
    """What computes the last hidden states of a forest in place of a model's own layers."""

    def __call__(self, embedded: Tensor, positions: Tensor, plan: ForestAttention) -> Tensor:
        """Embedded tokens [N, C] at `positions` [N] -> last hidden states [N, C]."""
        ...


def for_model(base: Any, plan: ForestAttention) -> Trunk | None:
    """The fast trunk of a decoder in its present state, None where its own modules have to run.

    Ask before every pass: hooks, adapters, dropout and types of weights may have changed.

    Args:
        base: the model below its last projection. plan: the attention of the forest to be computed.
    """
    return fused_trunk(base, plan)


@contextlib.contextmanager
def computing(*, accelerated: bool = True) -> Iterator[None]:
    """The scope of a model's forward or backward pass, also as a decorator.

    If `setup` has asked for fast products, matrix products within use the faster library, and one
    thread computes at a time. Else it does nothing. Keep code of users outside: PyTorch's older
    switch, `torch.get_float32_matmul_precision`, may refuse to answer within.

    Args:
        accelerated: False for passes that are not faster by it, such as attention by transformers'
        own functions; products are then PyTorch's own choice.
    """
    with fast_products() if accelerated else kernel_products():
        yield
