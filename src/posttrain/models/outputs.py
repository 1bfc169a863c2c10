"""What a model says of the targets of a forest, from the hidden states that predict them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import torch

from posttrain.data.forest import Forest
from posttrain.models.logprobs import Head, token_logprobs

Predictions = tuple[torch.Tensor, Head]
"""Hidden states [M, D] that predict targets, and the head that reads them."""

Compared = tuple[Predictions, torch.Tensor | None]
"""Predictions of a reference or a teacher, and their log-probs [M] where those are asked for."""

OWN_OUTPUTS = frozenset({"logprobs", "entropy", "entropy_gradient"})
"""Outputs of the trained model alone."""


def compared(rows: Predictions, forest: Forest, temperature: float, *, scored: bool) -> Compared:
    """Predictions of a reference or a teacher; `scored`: with the targets' log-probs."""
    if not scored:
        return rows, None
    return rows, token_logprobs(*rows, forest.target, temperature=temperature).logprobs


def own_outputs(
    hidden: torch.Tensor, head: Head, forest: Forest, names: Collection[str], temperature: float
) -> dict[str, torch.Tensor]:
    """The log-probs of the targets, whether each is the likeliest token, and the entropy if it is
    among the names.
    """
    entropy: Literal["none", "value", "gradient"] = "value" if "entropy" in names else "none"
    if "entropy_gradient" in names:
        entropy = "gradient"
    scores = token_logprobs(hidden, head, forest.target, temperature=temperature, entropy=entropy)
    outputs = {"logprobs": scores.logprobs, "correct": scores.correct}
    if scores.entropy is not None:
        outputs["entropy"] = scores.entropy
    return outputs
