"""Which adapters a model carries."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from posttrain.config import AdapterConfig, LoraConfig
from posttrain.models.load import load_model
from posttrain.models.peft_kind import VIRTUAL_KINDS, adapter_kind, is_peft, kind_of_config


def test_a_model_without_adapters_has_no_kind(folder: Path) -> None:
    hf = load_model(folder, dtype="float32").hf
    assert not is_peft(hf) and adapter_kind(hf) == ""


@pytest.mark.parametrize(
    ("kind", "name"), [("prompt", "PROMPT_TUNING"), ("prefix", "PREFIX_TUNING"), ("ia3", "IA3")]
)
def test_kinds_have_the_names_of_the_library(kind: str, name: str, folder: Path) -> None:
    settings = AdapterConfig(kind, num_virtual_tokens=2) if kind != "ia3" else AdapterConfig(kind)
    hf = load_model(folder, dtype="float32", adapter=settings).hf
    assert is_peft(hf) and adapter_kind(hf) == name
    assert (name in VIRTUAL_KINDS) == (kind != "ia3")


def test_lora_is_no_virtual_kind(folder: Path) -> None:
    assert adapter_kind(load_model(folder, lora=LoraConfig(r=2)).hf) == "LORA"
    assert "LORA" not in VIRTUAL_KINDS


def test_a_config_read_from_a_file_has_a_name_for_its_kind() -> None:
    assert kind_of_config(SimpleNamespace(peft_type="LORA")) == "LORA"
