"""The server of jobs, without isolation, over its socket."""

from __future__ import annotations

import base64
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from posttrain.sandbox.guest import server
from posttrain.sandbox.guest.values import Channel

LIMITS = {
    "seconds": 20.0,
    "wall_seconds": 60.0,
    "memory_bytes": 1 << 32,
    "output_bytes": 1000,
    "file_bytes": 1 << 20,
}


@pytest.fixture
def channel() -> Iterator[Channel]:
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        ours.close()
        try:
            server.main(theirs.detach(), False, "")
        finally:
            os._exit(0)
    theirs.close()
    ours.settimeout(120)
    channel = Channel(ours, 1 << 28)
    assert channel.receive() == "ready"
    yield channel
    ours.close()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0  # it ends with its socket


def job(source: str, **limits: float) -> dict[str, Any]:
    return {"kind": "script", "source": source, "stdin": "in", "limits": {**LIMITS, **limits}}


def test_jobs_one_after_the_other(channel: Channel) -> None:
    for code in (0, 4):
        channel.send(job(f"import os; os.write(1, os.read(0, 9)); os._exit({code})"))
        answer = channel.receive()
        assert (answer["status"], answer["code"]) == ("ended", code)
        assert base64.b64decode(answer["stdout"]) == b"in"


def test_limits_end_a_program(channel: Channel) -> None:
    channel.send(job("while True: pass", seconds=0.2))
    assert channel.receive()["status"] == "timeout"
    channel.send(job("import time; time.sleep(60)", wall_seconds=0.2))
    assert channel.receive()["status"] == "timeout"
    channel.send(job("import os\nwhile True: os.write(1, b'x' * 100)"))
    assert channel.receive()["status"] == "output"


def test_a_broken_job_is_lost_and_the_server_goes_on(channel: Channel) -> None:
    channel.send({"kind": "script"})
    assert channel.receive()["status"] == "lost"
    channel.send(job("pass"))
    assert channel.receive()["status"] == "ended"
