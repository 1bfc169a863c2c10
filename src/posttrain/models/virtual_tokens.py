"""Trained tokens before every sequence: prompt tuning, P-tuning and prefix tuning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from posttrain.config import AdapterConfig
from posttrain.errors import ModelError
from posttrain.models.peft_kind import VIRTUAL_KINDS, adapter_kind


class VirtualTokens:
    """Trained tokens before every sequence: embeddings (prompt and P-tuning), or keys and values of
    each layer (prefix). A transform of embeddings (`models.embeddings`).

    Attributes:
        count: how many. in_layers: they are keys and values.
    """

    def __init__(self, hf: Any) -> None:
        self._hf = hf
        self.count: int = hf.peft_config["default"].num_virtual_tokens
        self.in_layers = adapter_kind(hf) == "PREFIX_TUNING"

    def is_active(self, *, training: bool) -> bool:
        """Always."""
        return True

    def __call__(self, embedded: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """embedded [N, D] -> [count + N, D]."""
        return torch.cat([self.embeddings().to(embedded.dtype), embedded])

    def embeddings(self) -> torch.Tensor:
        """[count, D]; 0 for a prefix, whose embeddings do not matter."""
        if self.in_layers:
            table = self._hf.get_base_model().get_input_embeddings().weight
            return table.new_zeros(self.count, table.shape[1])
        embeddings: torch.Tensor = self._hf.get_prompt(1)[0]
        return embeddings

    def keys_and_values(self) -> list[tuple[torch.Tensor, torch.Tensor]] | None:
        """Per layer, [1, Hkv, count, D] each; None where they follow from embeddings."""
        if not self.in_layers:
            return None
        return [(layer.keys, layer.values) for layer in self._hf.get_prompt(1).layers]


def virtual_tokens(hf: Any) -> VirtualTokens | None:
    """The virtual tokens of an adapted model, None where it has none."""
    return VirtualTokens(hf) if adapter_kind(hf) in VIRTUAL_KINDS else None


def refuse_virtual_score(adapter: AdapterConfig | Mapping[str, Any] | None) -> None:
    """Refuse virtual tokens on a score model.

    Args:
        adapter: settings, or the config of a PEFT folder.
    Raises:
        ModelError: a kind with virtual tokens.
    """
    kind: str | None = None
    if isinstance(adapter, AdapterConfig):
        kind = adapter.kind if adapter.virtual_tokens else None
    elif adapter is not None and adapter.get("peft_type") in VIRTUAL_KINDS:
        kind = adapter["peft_type"]
    if kind is not None:
        raise ModelError(
            f"adapter: kind {kind!r} puts tokens before a language model's; a score model takes "
            "lora or ia3"
        )
