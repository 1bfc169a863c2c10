"""What a process gives up; each is tried in a child of its own."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Callable

import pytest

from posttrain.sandbox import seccomp
from posttrain.sandbox.guest import isolation

needs_filter = pytest.mark.skipif(not seccomp.machine_is_known(), reason="another processor")


def in_child(action: Callable[[], bool]) -> bool:
    """Whether an action succeeds in a child process."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if action() else 1)
        except BaseException:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def refused(call: Callable[[], object]) -> bool:
    try:
        call()
    except OSError:
        return True
    return False


@needs_filter
def test_rights_are_dropped_for_good() -> None:
    rules = seccomp.refused_calls()

    def action() -> bool:
        isolation.drop_rights(rules)
        return refused(os.fork) and refused(socket.socket) and os.getpid() > 0

    assert in_child(action)


def test_limits_hold() -> None:
    def action() -> bool:
        isolation.set_limits(200 << 20, 1 << 20, 7)
        held = resource.getrlimit(resource.RLIMIT_FSIZE)[0] == 1 << 20
        try:
            bytearray(1 << 30)
        except MemoryError:
            return held and resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
        return False

    assert in_child(action)


def test_files_are_closed_but_for_those_kept() -> None:
    read, write = os.pipe()

    def action() -> bool:
        isolation.close_files({write})
        os.write(write, b"a")
        return refused(lambda: os.fstat(read))

    try:
        assert in_child(action) and os.read(read, 1) == b"a"
    finally:
        os.close(read)
        os.close(write)
