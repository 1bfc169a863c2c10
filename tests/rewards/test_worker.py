"""Worker processes are replaced when they die, and die with their parent."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from posttrain.rewards.math import MathPool


@pytest.fixture(scope="module")
def pool():
    made = MathPool(num_workers=1, seconds=20.0)
    yield made
    made.close()


def test_a_killed_worker_is_replaced(pool: MathPool) -> None:
    pool.equal([("a+1", "1+a")])
    process = pool._workers[0]._process
    assert process is not None
    process.kill()
    process.wait()
    assert pool.equal([("b+1", "1+b")]) == [True]


def test_workers_die_with_their_parent() -> None:
    code = (
        "import os, signal; from posttrain.rewards.math import shared_pool\n"
        "shared_pool().equal([('x+1', '1+x')])\n"
        "print(*[w._process.pid for w in shared_pool()._workers if w._process], flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120
    ).stdout.split()
    assert out
    deadline = time.monotonic() + 20
    while any(_alive(int(pid)) for pid in out):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
