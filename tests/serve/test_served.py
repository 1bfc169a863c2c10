from __future__ import annotations

import pytest

from posttrain.errors import ConfigError
from posttrain.serve.served import Address, Limits, is_loopback


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.3", "example.org", "127.0.0.1.evil", ""])
def test_other_machines_need_a_key(host: str) -> None:
    assert not is_loopback(host)
    with pytest.raises(ConfigError):
        Address(host)
    assert Address(host, keys=("long-enough-key",)).keys


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "localhost", "::1", "[::1]"])
def test_this_machine_needs_none(host: str) -> None:
    assert is_loopback(host) and Address(host).keys == ()


@pytest.mark.parametrize(
    "key", ["", "short", "with a space in it", "schlüssel-mit-ü", "a\nb-long-key"]
)
def test_weak_keys_are_refused_and_not_shown(key: str) -> None:
    with pytest.raises(ConfigError) as error:
        Address(keys=("good-enough-key", key))
    assert not key or key not in str(error.value)
    assert "good-enough-key" not in repr(Address(keys=("good-enough-key",)))


def test_ports_and_limits_have_bounds() -> None:
    for port in (-1, 65536):
        with pytest.raises(ConfigError):
            Address(port=port)
    for name in ("max_tokens", "max_samples", "max_body_bytes", "timeout_seconds"):
        with pytest.raises(ConfigError, match=name):
            Limits(**{name: 0})
    with pytest.raises(ConfigError):
        Limits(timeout_seconds=float("inf"))
    with pytest.raises(ConfigError):
        Limits(timeout_seconds=float("nan"))
    assert Limits(grace_seconds=0).grace_seconds == 0
