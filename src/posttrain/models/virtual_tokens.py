"""Trained tokens before every sequence: prompt tuning, P-tuning and prefix tuning."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from posttrain.config import AdapterConfig
from posttrain.errors import ModelError
from posttrain.models.peft_kind import VIRTUAL_KINDS, adapter_kind

_EARLIER = "earlier_prompts"
"""A buffer of the PEFT model, which copies of the model hold too."""


class VirtualTokens:
    """Trained tokens before every sequence: embeddings (prompt and P-tuning), or keys and values of
    each layer (prefix). A transform of embeddings (`models.embeddings`).

    Attributes:
        in_layers: they are keys and values.
    """

    def __init__(self, hf: Any) -> None:
        self._hf = hf
        self.in_layers = adapter_kind(hf) == "PREFIX_TUNING"

    @property
    def count(self) -> int:
        """How many, frozen ones included."""
        earlier = earlier_prompts(self._hf)
        trained: int = self._hf.peft_config["default"].num_virtual_tokens
        return trained + (0 if earlier is None else len(earlier))

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
        earlier = earlier_prompts(self._hf)
        return embeddings if earlier is None else torch.cat([embeddings, earlier.to(embeddings)])

    def keys_and_values(self) -> list[tuple[torch.Tensor, torch.Tensor]] | None:
        """Per layer, [1, Hkv, count, D] each; None where they follow from embeddings."""
        if not self.in_layers:
            return None
        return [(layer.keys, layer.values) for layer in self._hf.get_prompt(1).layers]


def virtual_tokens(hf: Any) -> VirtualTokens | None:
    """The virtual tokens of an adapted model, None where it has none."""
    return VirtualTokens(hf) if adapter_kind(hf) in VIRTUAL_KINDS else None


def earlier_prompts(hf: Any) -> torch.Tensor | None:
    """Frozen virtual tokens [n, D] between the trained ones and the sequence, or None."""
    return getattr(hf, _EARLIER, None)


def put_behind(hf: Any, prompts: torch.Tensor | None) -> None:
    """Put frozen virtual tokens [n, D] between the trained ones and every sequence."""
    if prompts is not None:
        prompts = prompts.to(next(hf.parameters()).device)
    hf.register_buffer(_EARLIER, prompts, persistent=False)


def save_joined(model: Any, folder: Path) -> None:
    """Write a model with prompt tuning as one whose trained tokens are all that it has.

    PEFT alone opens the folder; it knows of no frozen part.
    """
    model.save(folder)
    joined = VirtualTokens(model.hf).embeddings().detach().cpu().contiguous()
    for file in ("adapter_model.safetensors", "adapter_state.safetensors"):
        tensors = load_file(folder / file)
        (name,) = tensors  # prompt tuning trains one table
        save_file({name: joined.to(tensors[name].dtype)}, folder / file, {"format": "pt"})
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    config["num_virtual_tokens"] = len(joined)
    text = json.dumps(config, indent=2, sort_keys=True)
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")


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
