"""How a process gives up what it could do: namespaces, capabilities, limits, system calls."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
from typing import Any

_NEW_MOUNTS, _NEW_IPC, _NEW_PIDS = 0x00020000, 0x08000000, 0x20000000
_NO_SETUID, _NO_DEVICES, _NO_EXEC = 2, 4, 8
_SET_SECCOMP, _FILTER_MODE, _NO_NEW_PRIVILEGES = 22, 2, 38
_CAPABILITY_VERSION = 0x20080522
_MAX_FILES_IN_FOLDER = 1000
_MAX_OPEN_FILES = 64

FOLDER = "/tmp"
"""The one folder to which a program can write. It is empty at the start of each program."""


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("lines", ctypes.c_char_p))


# Made once, before any program: a process that is forked for one finds it ready.
_LIBC: Any = ctypes.CDLL(None, use_errno=True)
_HEADER = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
_NO_CAPABILITIES = (ctypes.c_uint32 * 6)()


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {errno.errorcode.get(number, number)}")


def enter_namespaces(folder_bytes: int) -> None:
    """Give this process an empty folder, and its next child a world of processes of its own.

    The child is process 1 there: when it ends, all that it started is killed by the kernel.
    """
    _check(_LIBC.unshare(_NEW_MOUNTS | _NEW_IPC | _NEW_PIDS), "unshare")
    options = f"size={folder_bytes},nr_inodes={_MAX_FILES_IN_FOLDER},mode=700".encode()
    flags = _NO_SETUID | _NO_DEVICES | _NO_EXEC
    _check(_LIBC.mount(b"tmpfs", FOLDER.encode(), b"tmpfs", flags, options), "mount")


def drop_rights(system_calls: bytes) -> None:
    """Give up all capabilities for good, and the system calls that a filter refuses.

    No capability can come back: the filter refuses to run files, which could have some.
    """
    _check(_LIBC.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0), "no_new_privs")
    _check(_LIBC.capset(_HEADER, _NO_CAPABILITIES), "capset")
    rules = _Filter(len(system_calls) // 8, system_calls)
    _check(_LIBC.prctl(_SET_SECCOMP, _FILTER_MODE, ctypes.byref(rules), 0, 0), "seccomp")


def set_limits(memory_bytes: int, file_bytes: int, cpu_seconds: int) -> None:
    """Bound this process; a limit that the system does not have is left out."""
    limits = {
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_FSIZE: file_bytes,
        resource.RLIMIT_CPU: cpu_seconds,
        resource.RLIMIT_NOFILE: _MAX_OPEN_FILES,
        resource.RLIMIT_CORE: 0,
    }
    for limit, value in limits.items():
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(limit, (value, value))


def close_files(keep: set[int]) -> None:
    """Close all files but the standard ones and those in `keep`."""
    start = 3
    for number in sorted(keep):
        os.closerange(start, number)
        start = number + 1
    os.closerange(start, max(start, 4096))
