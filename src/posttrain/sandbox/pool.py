"""A pool of guests: programs run side by side, and their tests in other guests."""

from __future__ import annotations

import atexit
import functools
import json
import os
import queue
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from posttrain.errors import SandboxError
from posttrain.sandbox import seccomp
from posttrain.sandbox.bubblewrap import (
    GUEST,
    INSTALL,
    guest_code,
    interpreter,
    path_of_bwrap,
    sandbox_command,
)
from posttrain.sandbox.limits import SandboxLimits
from posttrain.sandbox.worker import Guest, ProgramRun
from posttrain.terminal import echo
from posttrain.typecheck import check_in_python

SandboxKind = Literal["bubblewrap", "none"]
"""What keeps a program in: bubblewrap, or nothing but limits of time and memory (unsafe)."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FunctionTests:
    """Tests that call the functions of a program.

    Attributes:
        units: code with assertions. Each unit runs for itself, also where the one before failed.
        names: global names of the program that the units use.
        setup: code before the first unit.
    """

    units: tuple[str, ...]
    names: tuple[str, ...] = ()
    setup: str = ""


@dataclass(frozen=True, slots=True)
class TestRun:
    """What tests found.

    Attributes:
        num_passed, num_tests: assertions. Those that were never reached have failed.
        program: how the program ended.
        lost: why there is no verdict, because a sandbox has failed; "" where there is one.
    """

    num_passed: int
    num_tests: int
    program: ProgramRun
    lost: str = ""

    @property
    def share(self) -> float:
        """Share of assertions that passed, from 0 to 1."""
        return self.num_passed / self.num_tests if self.num_tests else 0.0

    @property
    def passed(self) -> bool:
        """Whether all assertions passed, and there was one."""
        return self.num_tests > 0 and self.num_passed == self.num_tests


class Sandbox:
    """Runs programs in Python that nobody has read.

    A program has no network, no files but Python's own, one empty folder to write to, one process,
    and no view of what judges it. `run` gives it standard input. `test` calls its functions: the
    assertions run in a second sandbox, which the program cannot reach, on plain data that the
    program's functions return.

    >>> with Sandbox() as sandbox:
    ...     sandbox.run("print(6 * 7)").stdout
    '42\\n'

    Args:
        kind: "bubblewrap", or "none" for programs that are trusted: they then run with the rights
            of this process, and only time, memory and output are limited.
        num_workers: programs that run at a time; 0 = two per processor, because a start waits
            for the kernel at times.
        limits: of each program.
    Raises:
        SandboxError: no sandbox works on this machine.
    """

    def __init__(
        self,
        kind: SandboxKind = "bubblewrap",
        *,
        num_workers: int = 0,
        limits: SandboxLimits | None = None,
    ) -> None:
        self.kind: SandboxKind = check_in_python(kind, SandboxKind, "Sandbox: kind")
        self.limits = limits or SandboxLimits()
        command = _command(self.kind)
        count = num_workers or 2 * _num_processors()
        self._guests = [(Guest(command), Guest(command)) for _ in range(count)]
        self._process = os.getpid()
        self._idle: queue.LifoQueue[tuple[Guest, Guest]] = queue.LifoQueue()
        for pair in self._guests:
            self._idle.put(pair)
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="sandbox")

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(
        self, source: str, stdin: str = "", *, limits: SandboxLimits | None = None
    ) -> ProgramRun:
        """Run a program. limits: in the place of the sandbox's own."""
        limits = limits or self.limits
        job = {"kind": "script", "source": source, "stdin": stdin, "limits": _plain(limits)}

        def work(guest: Guest, _: Guest) -> ProgramRun:
            guest.send(job)
            return guest.receive(limits.wall_seconds)

        return self._with_guests(work)

    def test(
        self, source: str, tests: FunctionTests, *, limits: SandboxLimits | None = None
    ) -> TestRun:
        """Test the functions of a program. limits: in the place of the sandbox's own."""
        limits = limits or self.limits
        calls = {"kind": "calls", "source": source, "limits": _plain(limits)}
        checks = {"kind": "tests", "limits": _plain(limits)}
        checks |= {"setup": tests.setup, "units": tests.units, "names": tests.names}

        def work(guest: Guest, judge: Guest) -> TestRun:
            ours, theirs = socket.socketpair()
            with ours, theirs:
                guest.send(calls, [ours.fileno()])
                judge.send(checks, [theirs.fileno()])
            verdict = judge.receive(limits.wall_seconds)
            program = guest.receive(limits.wall_seconds)
            return _counted(tests, program, verdict)

        return self._with_guests(work)

    def each(self, call: Callable[[Any], T], items: Sequence[Any]) -> list[T]:
        """`call(item)` for each item, as many at a time as there are workers."""
        return list(self._threads.map(call, items))

    def close(self) -> None:
        """End all processes. A fork of this process leaves them alone."""
        if os.getpid() != self._process:
            return
        self._threads.shutdown(wait=False, cancel_futures=True)
        for pair in self._guests:
            for guest in pair:
                guest.kill()

    def _with_guests(self, work: Callable[[Guest, Guest], T]) -> T:
        pair = self._idle.get()
        try:
            return work(*pair)
        except BaseException:  # interrupted: an answer would be taken for that of the next program
            for guest in pair:
                guest.kill()
            raise
        finally:
            self._idle.put(pair)


def _num_processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _plain(limits: SandboxLimits) -> dict[str, float]:
    names = (*SandboxLimits.__slots__, "wall_seconds")
    return {name: getattr(limits, name) for name in names}


def _counted(tests: FunctionTests, program: ProgramRun, verdict: ProgramRun) -> TestRun:
    """Assertions that passed. Only a unit that came to its end is known to have no others."""
    lost = verdict.reason or program.reason
    asserts = [1] * len(tests.units)
    reached = [0] * len(tests.units)
    passed = [0] * len(tests.units)
    ended = [False] * len(tests.units)
    for line in verdict.report.splitlines():
        try:
            unit, event, *rest = json.loads(line)
        except ValueError:  # cut off in the middle
            break
        if event == "start":
            asserts[unit] = max(rest[0], 1)
        elif event == "end":
            ended[unit] = True
        else:
            reached[unit] += 1
            passed[unit] += bool(event)
    total = 0
    for unit in range(len(tests.units)):
        if ended[unit] and not reached[unit]:  # it asserts nothing, and raised nothing
            passed[unit] = reached[unit] = 1
        total += reached[unit] if ended[unit] else max(asserts[unit], reached[unit] + 1)
    return TestRun(sum(passed), total, program, lost)


def _command(kind: SandboxKind) -> Callable[[int], list[str]]:
    """What makes the command of a guest.

    Raises:
        SandboxError: the sandbox does not work here.
    """
    if kind == "none":
        echo(
            "sandbox none: programs run with the rights of this process. Use it for programs that "
            "you trust.",
            error=True,
        )
        root = str(GUEST.parent.parent.parent)
        code = functools.partial(guest_code, isolated=False, folder=root)
        return lambda control: [*interpreter()[0], "-c", code(control)]
    reason = why_not()
    if reason:
        raise SandboxError(
            f"sandbox: {reason}. Programs that nobody has read are not run without one. To run "
            "programs that you trust, set sandbox: none"
        )
    bwrap = path_of_bwrap()
    assert bwrap is not None
    return functools.partial(sandbox_command, bwrap)


@functools.cache
def why_not() -> str:
    """Why no sandbox works on this machine; "" where one does. It is tried once, in earnest."""
    if sys.platform != "linux":
        return f"{sys.platform} has no namespaces, which bubblewrap needs; use Linux"
    if not seccomp.machine_is_known():
        return "the system calls of this processor are not known; use x86_64 or aarch64"
    bwrap = path_of_bwrap()
    if bwrap is None:
        return f"there is no program bwrap; {INSTALL}"
    guest = Guest(functools.partial(sandbox_command, bwrap))
    try:
        guest.start()
        limits = _plain(SandboxLimits())
        guest.send({"kind": "script", "source": _PROBE, "limits": limits})
        run = guest.receive(SandboxLimits().wall_seconds)
    except SandboxError as error:
        return (
            f"{bwrap} does not work here ({str(error).removeprefix('sandbox: ')}); allow user "
            "namespaces to this user, or use a machine that does"
        )
    finally:
        guest.kill()
    if run.stdout != "kept\n":
        return f"a program in {bwrap} could do what it must not: {run.reason or run.stderr!r:.300}"
    return ""


_PROBE = """
import os, socket
assert os.getpid() == 1, "it sees other processes"
for attempt in (os.fork, socket.socket, lambda: os.open("/outside", os.O_CREAT)):
    try:
        attempt()
    except OSError:
        continue
    raise SystemExit(f"it may call {attempt}")
print("kept")
"""

_shared: dict[tuple[SandboxKind, int, int], Sandbox] = {}
_lock = threading.Lock()


def shared_sandbox(kind: SandboxKind = "bubblewrap", num_workers: int = 0) -> Sandbox:
    """The sandbox of this process, which rewards, tasks and tools share. It ends with the process.

    Raises:
        SandboxError: no sandbox works on this machine.
    """
    with _lock:
        key = (kind, num_workers, os.getpid())
        if key not in _shared:
            _shared[key] = Sandbox(kind, num_workers=num_workers)
            atexit.register(_shared[key].close)
        return _shared[key]
