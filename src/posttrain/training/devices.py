"""Devices that a training may run on, as their data sheets have them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from posttrain.errors import ConfigError, nearest


@dataclass(frozen=True, slots=True)
class Device:
    """One device and what joins it to others.

    Attributes:
        name: what is bought.
        rate: operations per second of matrix products in training precision.
        bandwidth: bytes per second of its memory. memory: bytes.
        link: bytes per second to other devices of its machine, one way. per_machine: devices of a
            machine. network: bytes per second of a device to those of other machines.
        share_of_rate, share_of_bandwidth: what training and decoding reach of rate and bandwidth.
        start_seconds: of one layer in a decoding step, whatever it computes.
        half: whether it is a GPU, where weights are bfloat16 by default.
    """

    name: str
    rate: float
    bandwidth: float
    memory: float
    link: float = math.inf
    per_machine: int = 8
    network: float = math.inf
    share_of_rate: float = 0.4
    share_of_bandwidth: float = 0.6
    start_seconds: float = 1e-5
    half: bool = True

    @property
    def kv_bytes(self) -> float:
        """Bytes of keys and values that an engine may hold by default (`engines.room`)."""
        return self.memory / 4 if self.half else float(4 << 30)


DEVICES: dict[str, Device] = {
    "a100": Device("A100 80 GB", 312e12, 2.0e12, 80e9, 300e9, 8, 25e9),
    "h100": Device("H100 80 GB SXM", 989e12, 3.35e12, 80e9, 450e9, 8, 50e9),
    "h200": Device("H200 141 GB", 989e12, 4.8e12, 141e9, 450e9, 8, 50e9),
    "b200": Device("B200 192 GB", 2250e12, 8.0e12, 192e9, 900e9, 8, 50e9),
    "rtx4090": Device("RTX 4090", 165e12, 1.0e12, 24e9, 32e9, 8, 3e9),
}
"""Dense bfloat16 rates, memory and links of data sheets. `share_of_rate` 0.4 and
`share_of_bandwidth` 0.6 are the aims of this project, not measurements.
"""


def device_of(kind: str) -> Device:
    """A device by its name.

    Raises:
        ConfigError: there is none; names the nearest.
    """
    if kind not in DEVICES:
        raise ConfigError(f"device_kind {kind!r} is not known: {nearest(kind, DEVICES)}")
    return DEVICES[kind]
