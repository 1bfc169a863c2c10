"""Settings of a model that contradict one another."""

from __future__ import annotations

import pytest

from posttrain.errors import ConfigError
from posttrain.model_config import AdapterConfig, LoraConfig, ModelConfig


def test_contradictions_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"lora\.r: 0"):
        LoraConfig(r=0)
    with pytest.raises(ConfigError, match=r"adapter\.r: .*'ia3'"):
        AdapterConfig("ia3", r=4)
    with pytest.raises(ConfigError, match="quantization: nf4"):
        ModelConfig("m", quantization="nf4")


def test_virtual_tokens_are_of_three_kinds() -> None:
    assert AdapterConfig("prompt", num_virtual_tokens=3).virtual_tokens == 3
    assert AdapterConfig("ia3").virtual_tokens == 0
