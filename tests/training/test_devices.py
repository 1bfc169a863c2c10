from __future__ import annotations

import pytest

from posttrain.errors import ConfigError
from posttrain.training.devices import DEVICES, Device, device_of


def test_devices_by_name() -> None:
    assert device_of("h100") is DEVICES["h100"]
    with pytest.raises(ConfigError, match="'h1000'.*'h100'"):
        device_of("h1000")


def test_keys_and_values_have_the_engines_room() -> None:
    """As `engines.room.kv_bytes_of`."""
    assert DEVICES["h100"].kv_bytes == DEVICES["h100"].memory / 4
    assert Device("cpu", 1.0, 1.0, 1e12, half=False).kv_bytes == 4 << 30
