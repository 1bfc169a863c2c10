"""The filter of system calls, run by an interpreter of its instructions."""

from __future__ import annotations

import struct

import pytest

from posttrain.errors import ConfigError
from posttrain.sandbox import seccomp

ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x00050001, 0x00050026, 0x80000000
X86, ARM = 0xC000003E, 0xC00000B7


def verdict(filter_: bytes, arch: int, number: int, argument: int = 0) -> int:
    """What the kernel does with a call."""
    lines = [struct.unpack_from("=HBBI", filter_, at) for at in range(0, len(filter_), 8)]
    data = {0: number, 4: arch, 16: argument}
    held, place = 0, 0
    while True:
        code, true, false, value = lines[place]
        place += 1
        if code == 0x06:
            return value
        if code == 0x20:
            held = data[value]
            continue
        holds = {0x15: held == value, 0x35: held >= value, 0x45: bool(held & value)}[code]
        place += true if holds else false


@pytest.mark.parametrize(("machine", "arch", "column"), [("x86_64", X86, 0), ("aarch64", ARM, 1)])
def test_listed_calls_are_refused_and_others_are_not(machine: str, arch: int, column: int) -> None:
    rules = seccomp.refused_calls(machine)
    refused = {calls[column] for calls in seccomp._REFUSED.values()} - {None}
    clone = seccomp._CLONE[column]
    for number in range(500):
        expected = EPERM if number in refused | {clone} else ALLOW
        expected = ENOSYS if number == 435 else expected
        assert verdict(rules, arch, number) == expected, number
    assert verdict(rules, arch, clone, 0x00010000 | 0x100) == ALLOW  # a thread
    assert verdict(rules, arch, clone, 0x10000000 | 17) == EPERM  # a user namespace
    assert verdict(rules, arch, 0x40000000 + 1) == EPERM
    assert verdict(rules, arch ^ 1, 1) == KILL


def test_another_processor_is_refused() -> None:
    assert not seccomp.machine_is_known("riscv64")
    with pytest.raises(ConfigError, match="riscv64"):
        seccomp.refused_calls("riscv64")
