from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("math_verify")

from posttrain.rewards.math import MathPool, math, shared_pool, too_heavy


@pytest.fixture(scope="module")
def pool():
    made = MathPool(num_workers=1, seconds=20.0)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("gold", "prediction", "equal"),
    [
        (r"\frac{1}{2}", "0.5", True),
        (r"\frac{1}{2}", r"\dfrac{2}{4}", True),
        ("x^2+2x+1", "(x+1)^2", True),
        (r"\sqrt{8}", r"2\sqrt{2}", True),
        ("3", "4", False),
        ("1000", "1,000", True),
        ("7", None, False),
        ("7", "", False),
        (r"\pi", "3", False),
    ],
)
def test_equality(pool: MathPool, gold: str, prediction: str | None, equal: bool) -> None:
    assert pool.equal([(gold, prediction)]) == [equal]


def test_heavy_expressions_are_settled_without_a_parser() -> None:
    for text in ("10^{10^{10}}", "9^{9^{9^9}}", "99999999!", "3!!!", "2^{123456}", "{" * 20, "x" * 400):
        assert too_heavy(text)
    for text in (r"\frac{1}{2}", "2^{10}", "5!", r"\sqrt{\frac{x^2}{y^3}}"):
        assert not too_heavy(text)
    assert math([r"\boxed{10^{10^{10}}}"], ["3"]) == [0.0]


def test_a_verdict_that_misses_its_deadline_costs_the_process_its_life() -> None:
    pool = MathPool(num_workers=1, seconds=20.0)
    assert pool.equal([("x+1", "1+x")]) == [True]
    process = pool._workers[0]._process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)  # a hang that no signal handler of the worker could end
    pool.seconds = 0.2
    assert pool.equal([("y+1", "1+y")]) == [None]
    assert process.poll() is not None
    pool.seconds = 20.0
    assert pool.equal([("z+1", "1+z")]) == [True]  # a new process took over
    pool.close()


def test_a_killed_worker_is_replaced(pool: MathPool) -> None:
    pool.equal([("a+1", "1+a")])
    process = pool._workers[0]._process
    assert process is not None
    process.kill()
    process.wait()
    assert pool.equal([("b+1", "1+b")]) == [True]


def test_from_any_thread() -> None:
    found: list[list[float]] = []
    threads = [threading.Thread(target=lambda: found.append(math([r"\boxed{2x}"], ["x+x"]))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[1.0]] * 3


def test_the_reward_reads_boxes_hashes_and_numbers() -> None:
    texts = [r"no \boxed{1} but \boxed{\frac{3}{6}}", "so #### 0.5", "it is 0.5", "nothing"]
    assert math(texts, ["1/2"] * 4) == [1, 1, 1, 0]
    assert len(shared_pool()._cache) >= 1


def test_workers_die_with_their_parent() -> None:
    code = (
        "import os, signal; from posttrain.rewards.math import shared_pool\n"
        "shared_pool().equal([('x+1', '1+x')])\n"
        "print(*[w._process.pid for w in shared_pool()._workers if w._process], flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120).stdout.split()
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
