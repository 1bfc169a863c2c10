"""Virtual tokens: as a transform of embeddings, on score models, and while the reference runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from posttrain.config import AdapterConfig
from posttrain.errors import ModelError
from posttrain.models.load import load_model
from posttrain.models.peft_kind import adapter_kind
from posttrain.models.virtual_tokens import refuse_virtual_score, virtual_tokens


def test_a_prompt_stands_before_the_embeddings(folder: Path) -> None:
    model = load_model(folder, adapter=AdapterConfig("prompt", num_virtual_tokens=3))
    tokens = virtual_tokens(model.hf)
    assert adapter_kind(model.hf) == "PROMPT_TUNING" and tokens is not None
    assert model.virtual in model.transforms and model.num_virtual_tokens == tokens.count == 3
    embedded = torch.zeros(5, 32)
    longer = tokens(embedded, torch.full((5,), 5))
    assert longer.shape == (8, 32) and torch.equal(longer[3:], embedded)
    assert torch.equal(longer[:3], tokens.embeddings()) and tokens.keys_and_values() is None


def test_a_prefix_has_keys_and_values_in_place_of_embeddings(folder: Path) -> None:
    model = load_model(folder, adapter=AdapterConfig("prefix", num_virtual_tokens=2))
    assert model.virtual is not None and not model.virtual.embeddings().any()
    pairs = model.virtual.keys_and_values()
    assert pairs is not None and {x.shape for pair in pairs for x in pair} == {(1, 2, 2, 8)}


def test_the_reference_has_none(folder: Path) -> None:
    model = load_model(folder, adapter=AdapterConfig("prompt", num_virtual_tokens=3))
    before = model.virtual
    with model.reference():
        assert model.virtual is None and model.num_virtual_tokens == 0
    assert model.virtual is before


def test_score_models_take_none() -> None:
    refuse_virtual_score(None)
    refuse_virtual_score(AdapterConfig("ia3"))
    refuse_virtual_score({"peft_type": "LORA"})
    for adapter in (AdapterConfig("p_tuning"), {"peft_type": "PREFIX_TUNING"}):
        with pytest.raises(ModelError, match="score model"):
            refuse_virtual_score(adapter)
