"""One guest: a process in a sandbox that runs one program after another."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from posttrain.errors import SandboxError
from posttrain.sandbox.guest.values import Channel, NotPlain

Status = Literal["ended", "timeout", "output", "lost"]

_START_SECONDS = 60.0
_GRACE_SECONDS = 10.0
_MAX_MESSAGE = 1 << 28
_MAX_REASON = 500


@dataclass(frozen=True, slots=True)
class ProgramRun:
    """How a program ended.

    Attributes:
        status: "ended" by itself (or by the kernel, at a limit), "timeout", "output" (it wrote too
            much), or "lost" (the sandbox has failed, so nothing is known of the program).
        code: exit code; minus the number of the signal that ended it.
        stdout, stderr: what it wrote, up to the limit.
        seconds, cpu_seconds: how long it ran.
        report: what a test reported; "" for a program.
        reason: why it was lost.
    """

    status: Status
    code: int = 0
    stdout: str = ""
    stderr: str = ""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    report: str = ""
    reason: str = ""

    @property
    def succeeded(self) -> bool:
        """Whether it ended by itself with exit code 0."""
        return self.status == "ended" and self.code == 0


class Guest:
    """A guest process, started at the first program and again after it was lost.

    Args:
        command: makes its command from the number of the control socket.
    """

    def __init__(self, command: Any) -> None:
        self.command = command
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None

    def start(self) -> None:
        """Start the process and wait until it is ready.

        Raises:
            SandboxError: it does not start; says what it wrote.
        """
        ours, theirs = socket.socketpair()
        with theirs, tempfile.TemporaryFile() as errors:
            try:
                self._process = subprocess.Popen(
                    self.command(theirs.fileno()),
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    start_new_session=True,  # a signal to its group reaches all of it
                )
            except OSError as error:
                ours.close()
                raise SandboxError(f"sandbox: {error}") from error
            theirs.close()
            self._channel = Channel(ours, _MAX_MESSAGE)
            ours.settimeout(_START_SECONDS)
            try:
                if self._channel.receive() == "ready":
                    return
                reason = "it gave no sign of being ready"
            except (OSError, EOFError, NotPlain) as error:
                reason = str(error)
            self.kill()
            errors.seek(0)
            text = errors.read(10_000).decode(errors="replace").strip()
            raise SandboxError(f"sandbox: it does not start: {text[-_MAX_REASON:] or reason}")

    def send(self, job: dict[str, Any], files: Sequence[int] = ()) -> None:
        """Give the guest a job. `files` go to the program, as its channel.

        Raises:
            SandboxError: the guest cannot be started.
        """
        if self._process is None or self._process.poll() is not None:
            self.kill()
            self.start()
        assert self._channel is not None
        connection = self._channel.connection
        data = _message(job)
        connection.settimeout(_GRACE_SECONDS)
        try:
            sent = socket.send_fds(connection, [data], list(files))
            connection.sendall(data[sent:])
        except OSError:
            self.kill()  # `receive` reports it as lost

    def receive(self, seconds: float) -> ProgramRun:
        """How the program of the last job ended.

        Args:
            seconds: longest time of the program. A guest that is silent for much longer is
                killed.
        """
        if self._channel is None:
            return ProgramRun("lost", reason="the sandbox has ended")
        self._channel.connection.settimeout(seconds + _GRACE_SECONDS)
        try:
            answer = self._channel.receive()
        except (OSError, EOFError, NotPlain) as error:
            self.kill()
            return ProgramRun("lost", reason=str(error) or type(error).__name__)
        if answer["status"] == "lost":
            return ProgramRun("lost", reason=answer["reason"])
        for name in ("stdout", "stderr", "report"):
            answer[name] = base64.b64decode(answer[name]).decode("utf-8", "replace")
        return ProgramRun(**answer)

    def kill(self) -> None:
        """End the guest and what it runs, at once."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if self._channel is not None:
            self._channel.connection.close()
            self._channel = None


def _message(job: dict[str, Any]) -> bytes:
    data = json.dumps(job).encode()
    return len(data).to_bytes(4, sys.byteorder) + data
