"""The guard ends with its command, and its command ends with the guard's input."""

from __future__ import annotations

import subprocess
import sys

import pytest

from posttrain.engines import launch_guard


def guard(code: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, launch_guard.__file__, sys.executable, "-c", code]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_the_status_of_the_command_is_that_of_the_guard() -> None:
    process = guard("raise SystemExit(7)")
    assert process.wait(60) == 7
    process.communicate()


@pytest.mark.parametrize("deaf", [False, True], ids=["ends", "has to be killed"])
def test_a_closed_input_ends_the_command(deaf: bool) -> None:
    ignore = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " if deaf else ""
    process = guard(f"{ignore}import time; print('up', flush=True); time.sleep(600)")
    assert process.stdout is not None and process.stdin is not None
    assert process.stdout.readline() == b"up\n"
    process.stdin.close()
    assert process.wait(60 + launch_guard.GRACE_SECONDS) != 0
    process.stdout.close()
