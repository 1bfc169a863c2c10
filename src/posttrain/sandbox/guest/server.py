"""A server inside the sandbox: it starts each program in a process of its own, and watches it.

Three processes take part. The server reads jobs. It forks a supervisor for each, which makes the
program's namespaces and forks the program. The supervisor keeps the time, reads the output and
answers. The program sees neither of the two: it is process 1 of its own world.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes  # noqa: F401 (loaded once, before any program)
import gc
import json
import os
import select
import signal
import socket
import sys
import tempfile
import time
from typing import Any

from posttrain.sandbox.guest import isolation, program
from posttrain.sandbox.guest.values import Channel

_CHUNK = 1 << 16
_MAX_REPORT = 1 << 20
_MAX_MESSAGE = 1 << 28
_FEW_FILES = 8
_LEAST_WAIT = 0.005
_OF_PROCESS = 2  # how Linux numbers the clock of another process (clock_getcpuclockid(3))


def main(control: int, is_isolated: bool, system_calls: str) -> None:
    """Serve jobs until the control socket is closed.

    Args:
        control: number of the connected socket. system_calls: the filter, in base 16.
        is_isolated: whether programs get namespaces, and lose capabilities and system calls.
    """
    connection = socket.socket(fileno=control)
    channel = Channel(connection, _MAX_MESSAGE)
    rules = bytes.fromhex(system_calls) if is_isolated else None
    gc.collect()
    gc.freeze()
    channel.send("ready")
    while True:
        try:
            message, files = _job(connection)
        except (EOFError, ConnectionError):
            return
        supervisor = os.fork()
        if supervisor == 0:
            try:
                channel.send(_supervise(json.loads(message), files, rules))
            except BaseException as error:
                channel.send({"status": "lost", "reason": f"{type(error).__name__}: {error}"})
            os._exit(0)
        for number in files:
            os.close(number)
        _, state = os.waitpid(supervisor, 0)
        if state:  # killed, as by a machine that is short of memory
            channel.send({"status": "lost", "reason": f"the supervisor ended with {state}"})


def _job(connection: socket.socket) -> tuple[bytes, list[int]]:
    """A job and the files that came with it: at most the channel of a test."""
    head, files, _, _ = socket.recv_fds(connection, 4, _FEW_FILES)
    if not head:
        raise EOFError
    while len(head) < 4:
        head += connection.recv(4 - len(head))
    size = int.from_bytes(head, sys.byteorder)
    parts: list[bytes] = []
    while size:
        part = connection.recv(min(size, _CHUNK))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts), files


def _supervise(job: dict[str, Any], files: list[int], rules: bytes | None) -> dict[str, Any]:
    """Run a program; how it ended and what it wrote."""
    limits = job["limits"]
    # Tests come from whoever runs the sandbox; they need no world of their own within it.
    if rules is not None and job["kind"] != "tests":
        isolation.enter_namespaces(limits["file_bytes"] + len(job.get("stdin", "")) * 4)
    pipes = [os.pipe() for _ in range(3)]
    given = _input_file(job.get("stdin", ""))
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        try:
            _become_program(job, files, pipes, given, rules)
        finally:
            os._exit(70)
    for _, written in pipes:
        os.close(written)
    for number in files:
        os.close(number)
    watch = _Watch([read for read, _ in pipes], limits)
    status = watch.until_end(child, limits["seconds"], started + limits["wall_seconds"])
    with contextlib.suppress(OSError):
        if rules is None:
            os.killpg(child, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    _, state, usage = os.wait4(child, 0)
    watch.drain()
    code = os.waitstatus_to_exitcode(state)
    output, errors, report = (base64.b64encode(bytes(part)).decode() for part in watch.parts)
    return {
        "status": status,
        "code": code,
        "seconds": time.monotonic() - started,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "stdout": output,
        "stderr": errors,
        "report": report,
    }


def _input_file(text: str) -> int:
    if not text:
        return os.open(os.devnull, os.O_RDONLY)
    with tempfile.TemporaryFile() as file:
        file.write(text.encode("utf-8", "surrogatepass"))
        file.seek(0)
        return os.dup(file.fileno())


def _become_program(
    job: dict[str, Any],
    files: list[int],
    pipes: list[tuple[int, int]],
    given: int,
    rules: bytes | None,
) -> None:
    os.setsid()
    limits = job["limits"]
    if rules is not None:
        os.chdir(isolation.FOLDER)
    os.dup2(given, 0)
    os.dup2(pipes[0][1], 1)
    os.dup2(pipes[1][1], 2)
    judges = job["kind"] == "tests"
    report = pipes[2][1] if judges else -1
    channel = files[0] if files else -1
    isolation.close_files({number for number in (report, channel) if number >= 0})
    isolation.set_limits(limits["memory_bytes"], limits["file_bytes"], int(limits["seconds"]) + 1)
    if rules is not None:
        isolation.drop_rights(rules)
    program.run(job, channel, report)


class _Watch:
    """Reads what a program writes, up to a limit, until it ends or its time is up."""

    def __init__(self, files: list[int], limits: dict[str, Any]) -> None:
        self.files = files
        self.parts = [bytearray(), bytearray(), bytearray()]
        self.sizes = [limits["output_bytes"], limits["output_bytes"], _MAX_REPORT]
        self.open = set(files)

    def until_end(self, child: int, cpu_seconds: float, deadline: float) -> str:
        """Wait for the child: "ended", "timeout" or "output".

        Args:
            cpu_seconds: most processor time of the child.
            deadline: when it has to have ended, by the monotonic clock.
        """
        ending = os.pidfd_open(child) if hasattr(os, "pidfd_open") else -1
        try:
            while True:
                left = min(deadline - time.monotonic(), cpu_seconds - _cpu_seconds(child))
                if left <= 0:
                    return "timeout"
                sources = [*self.open, ending] if ending >= 0 else [*self.open]
                wait = max(left, _LEAST_WAIT) if ending >= 0 else _LEAST_WAIT
                ready, _, _ = select.select(sources, [], [], wait)
                if not self._read([number for number in ready if number != ending]):
                    return "output"
                if ending in ready or (ending < 0 and _has_ended(child)):
                    return "ended"
        finally:
            if ending >= 0:
                os.close(ending)

    def _read(self, files: list[int]) -> bool:
        """Read from files; False where there is more than the limit."""
        for number in files:
            place = self.files.index(number)
            part = os.read(number, _CHUNK)
            if not part:
                self.open.discard(number)
            room = self.sizes[place] - len(self.parts[place])
            self.parts[place] += part[: max(room, 0)]
            if len(part) > room:
                return False
        return True

    def drain(self) -> None:
        """Read what is left in the pipes after the end."""
        while self.open:
            ready, _, _ = select.select([*self.open], [], [], 0)
            if not ready or not self._read(ready):
                return


def _cpu_seconds(process: int) -> float:
    """Processor time of a process with all its threads; 0 where the system does not tell."""
    if sys.platform != "linux":
        return 0.0
    try:
        return time.clock_gettime(~process << 3 | _OF_PROCESS)
    except OSError:  # it has ended
        return 0.0


def _has_ended(child: int) -> bool:
    ended = os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    return ended is not None
