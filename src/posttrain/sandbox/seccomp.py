"""The system calls that a sandboxed program may not make, as a filter for the kernel.

A filter of seccomp (seccomp(2), mode 2) is a program of classic BPF. It is refused every call that
makes a process, runs a file, opens a socket, looks into other processes, or reaches parts of the
kernel that no test of a function needs. A refused call fails with EPERM.
"""

from __future__ import annotations

import platform
import struct

from posttrain.errors import ConfigError

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_KILL, _ALLOW, _EPERM, _ENOSYS = 0x80000000, 0x7FFF0000, 0x00050001, 0x00050026
_NUMBER, _ARCH, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data, little endian
_CLONE_THREAD = 0x00010000
_X32 = 0x40000000  # calls of the x32 ABI have other numbers

_ARCHES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}

_CLONE, _CLONE3 = (56, 220), (435, 435)

_REFUSED: dict[str, tuple[int | None, int | None]] = {
    # name: numbers on x86_64 and aarch64
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_getfd": (438, 438),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "fanotify_init": (300, 262),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "personality": (135, 92),
    "quotactl": (179, 60),
    "acct": (163, 89),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "kexec_load": (246, 104),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "syslog": (103, 116),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
}


def machine_is_known(machine: str | None = None) -> bool:
    """Whether the numbers of system calls are known for a processor (default: this one)."""
    return (machine or platform.machine()) in _ARCHES


def refused_calls(machine: str | None = None) -> bytes:
    """The filter, as an array of `struct sock_filter`.

    Threads of the same process are allowed; clone3, whose flags a filter cannot read, is said not
    to exist, so that the C library falls back to clone.

    Raises:
        ConfigError: a processor whose numbers of system calls are not known.
    """
    machine = machine or platform.machine()
    if machine not in _ARCHES:
        raise ConfigError(
            f"sandbox: the processor {machine!r} is none of {', '.join(_ARCHES)}, for which the "
            "numbers of system calls are known; run the programs on one of these"
        )
    arch, column = _ARCHES[machine]
    numbers = [calls[column] for calls in _REFUSED.values()]
    refused = [number for number in numbers if number is not None]
    lines: list[tuple[int, int, int, int]] = [
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 1, 0, arch),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]
    # Each test jumps over the tests that are left, those of clone and "allow".
    tests = [(_AT_LEAST, _X32), *((_EQUAL, number) for number in refused)]
    for place, (code, value) in enumerate(tests):
        lines.append((code, len(tests) - place - 1 + 5, 0, value))
    lines += [
        (_EQUAL, 5, 0, _CLONE3[column]),
        (_EQUAL, 0, 2, _CLONE[column]),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_ANY_BIT, 0, 1, _CLONE_THREAD),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _EPERM),
        (_RETURN, 0, 0, _ENOSYS),
    ]
    return b"".join(struct.pack("=HBBI", *line) for line in lines)
