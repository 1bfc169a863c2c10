"""The processes of one machine."""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from posttrain.engines import launch_guard

_END_SECONDS = 15.0  # more than the guard gives


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """A process to be started.

    name: such as "rank 0". command: its command line. environment: variables beside those of the
    machine. folder: where it runs.
    """

    name: str
    command: list[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    folder: str = "."


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """What is new of a process: lines that it has printed, and its exit status, None while it
    runs.
    """

    name: str
    lines: list[str]
    code: int | None


class Supervisor:
    """Starts processes on its machine and ends them with itself, however it ends."""

    def __init__(self) -> None:
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._lines: dict[str, queue.SimpleQueue[str]] = {}
        self._readers: dict[str, threading.Thread] = {}

    def place(self) -> tuple[str, int]:
        """The address of the machine and a port that is free on it."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return _address(), int(probe.getsockname()[1])

    def start(self, spec: ProcessSpec) -> int:
        """Start a process in the place of one of that name; its number."""
        self.stop(spec.name)
        guarded = [sys.executable, str(launch_guard.__file__), *spec.command]
        process = subprocess.Popen(
            guarded,
            stdin=subprocess.PIPE,  # it closes when this process ends
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={**os.environ, **spec.environment},
            cwd=spec.folder,
            start_new_session=True,
        )
        self._processes[spec.name] = process
        self._lines[spec.name] = queue.SimpleQueue()
        reader = threading.Thread(target=self._read, args=(spec.name, process), daemon=True)
        self._readers[spec.name] = reader
        reader.start()
        return process.pid

    def poll(self) -> list[ProcessStatus]:
        """What is new of all processes."""
        found = []
        for name, process in self._processes.items():
            code = process.poll()
            if code is not None:
                self._readers[name].join(_END_SECONDS)
            lines = []
            with contextlib.suppress(queue.Empty):
                while True:
                    lines.append(self._lines[name].get_nowait())
            found.append(ProcessStatus(name, lines, code))
        return found

    def stop(self, name: str | None = None) -> None:
        """End a process, or all: they are asked to, and killed some seconds later."""
        chosen = list(self._processes) if name is None else [name]
        stopped = [self._processes[n] for n in chosen if n in self._processes]
        for process in stopped:
            if process.stdin is not None:
                with contextlib.suppress(OSError):
                    process.stdin.close()
        for process in stopped:
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for n in chosen:
            self._processes.pop(n, None)

    def _read(self, name: str, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        lines = self._lines[name]
        with contextlib.suppress(ValueError):
            for line in process.stdout:
                lines.put(line.rstrip("\n"))


def _address() -> str:
    """The address by which other machines reach this one; the loopback one without a network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("10.255.255.255", 1))  # sends nothing
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"
