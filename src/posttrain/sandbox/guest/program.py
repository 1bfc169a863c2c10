"""What runs in the process of a program, after it has given up its rights."""

from __future__ import annotations

import atexit
import os
import socket
import sys
import threading
import traceback
import types
from typing import Any

from posttrain.sandbox.guest.calls import CallServer
from posttrain.sandbox.guest.checks import Program, reporter, run_tests
from posttrain.sandbox.guest.values import Channel

_NAME = "<program>"


def run(job: dict[str, Any], channel: int, report: int) -> None:
    """Do a job and end the process.

    Args:
        job: {"kind": "script", "source"}, {"kind": "calls", "source"} or {"kind": "tests", ...}.
        channel: number of the socket to the other side of a test, or -1.
        report: number of the file for reports of tests, or -1.
    """
    sys.argv = [_NAME]
    if job["kind"] == "tests":
        run_tests(Program(_channel(channel)), job, reporter(report))
        os._exit(0)
    main = types.ModuleType("__main__" if job["kind"] == "script" else "program")
    sys.modules[main.__name__] = main
    code = _execute(job["source"], main)
    if code == 0 and job["kind"] == "calls":
        CallServer(_channel(channel), main.__dict__).serve()
    os._exit(code)


def _channel(number: int) -> Channel:
    return Channel(socket.socket(fileno=number))


def _execute(source: str, main: types.ModuleType) -> int:
    """Run a program as the interpreter runs it; its exit code."""
    code = 0
    try:
        exec(compile(source, _NAME, "exec"), main.__dict__)
    except SystemExit as stop:
        code = _exit_code(stop)
    except BaseException:
        traceback.print_exc()
        code = 1
    if main.__name__ != "__main__":
        return code
    try:
        getattr(threading, "_shutdown", lambda: None)()  # waits for threads, as the interpreter
        getattr(atexit, "_run_exitfuncs", lambda: None)()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        code = code or 1
    return code


def _exit_code(stop: SystemExit) -> int:
    if stop.code is None:
        return 0
    if isinstance(stop.code, int):
        return stop.code & 0xFF
    print(stop.code, file=sys.stderr)
    return 1
