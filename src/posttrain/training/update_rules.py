"""Which rule updates which parameter: AdamW, AdamW with 8-bit moments, or Muon."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from posttrain.config import MuonScale, OptimizerName
from posttrain.training.adamw8bit import AdamW8bit

RULE_NAMES = ("adamw", "adamw_8bit", "muon")
"""Names of rules in an optimiser's state."""


@dataclass(frozen=True, slots=True)
class UpdateRule:
    """How gradients become updates.

    Muon (Jordan et al. 2024; Liu et al. 2025, arXiv 2502.16982) updates the matrices W [A, B] of
    hidden layers by the orthogonal factor of their momentum, by torch.optim.Muon:

        M <- momentum M + (1 - momentum) G      U = (1 - momentum) G + momentum M
        W <- (1 - rate decay) W - rate scale NewtonSchulz5(U)

    scale is 0.2 sqrt(max(A, B)) ("match_rms_adamw": the updates have the size of AdamW's, whose
    rates and decay it takes) or sqrt(max(1, A / B)) ("original"). The products of the iteration
    are in bfloat16. All other parameters are AdamW's.

    Attributes:
        name: "adamw", "adamw_8bit" or "muon". betas, epsilon: AdamW's.
        muon_momentum, muon_scale: see above.
        matrices: what Muon updates, where it is chosen.
    """

    name: OptimizerName = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    muon_momentum: float = 0.95
    muon_scale: MuonScale = "match_rms_adamw"
    matrices: frozenset[nn.Parameter] = field(default_factory=frozenset)

    def name_for(self, parameter: nn.Parameter) -> str:
        """The rule of one parameter."""
        if self.name != "muon":
            return self.name
        return "muon" if parameter in self.matrices else "adamw"

    def optimizers(
        self, groups: Mapping[str, list[dict[str, Any]]], learning_rate: float
    ) -> dict[str, torch.optim.Optimizer]:
        """torch's optimisers by rule. groups: parameter groups by rule."""
        adam: dict[str, Any] = {"lr": learning_rate, "betas": self.betas, "eps": self.epsilon}
        make: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
            "adamw": lambda some: torch.optim.AdamW(some, **adam, fused=True),
            "adamw_8bit": lambda some: AdamW8bit(some, **adam),
            "muon": lambda some: torch.optim.Muon(
                some,
                lr=learning_rate,
                momentum=self.muon_momentum,
                adjust_lr_fn=self.muon_scale,
            ),
        }
        return {name: make[name](some) for name, some in groups.items() if some}


def hidden_matrices(roots: Iterable[nn.Module]) -> frozenset[nn.Parameter]:
    """The trained matrices of hidden layers: 2-D, with two sides above 1, and neither of an
    embedding nor of a head (an output projection, a score, and what is tied to an embedding).

    Args:
        roots: the models of a training.
    """
    found: set[nn.Parameter] = set()
    for root in roots:
        outside = {id(p) for p in _outside_parameters(root)}
        for name, parameter in root.named_parameters():
            is_matrix = parameter.ndim == 2 and min(parameter.shape) > 1
            embeds = "embed" in name.lower()
            if (
                parameter.requires_grad
                and is_matrix
                and not embeds
                and id(parameter) not in outside
            ):
                found.add(parameter)
    return frozenset(found)


def _outside_parameters(root: nn.Module) -> Iterable[Tensor]:
    """Parameters of embeddings and of heads."""
    for name, module in root.named_modules():
        last = name.rpartition(".")[2]
        if isinstance(module, nn.Embedding) or last in ("lm_head", "score", "classifier"):
            yield from module.parameters()
    head = getattr(root, "get_output_embeddings", lambda: None)()
    if head is not None:
        yield from head.parameters()


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Memory of an optimiser's state: of the part of sharded tensors that is here."""
    total = 0
    for state in optimizer.state.values():
        for value in state.values():
            if isinstance(value, Tensor):
                local: Any = value.to_local() if hasattr(value, "to_local") else value
                total += local.numel() * local.element_size()
    return total
