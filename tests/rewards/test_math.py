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
    for text in (
        "10^{10^{10}}",
        "9^{9^{9^9}}",
        "999999999!",
        "3!!!",
        "2^{1234567}",
        "x^{10^{10^{10}}}",
    ):
        assert too_heavy(text), text
    assert too_heavy("{" * 50) and too_heavy("x" * 1200)
    assert math([r"\boxed{10^{10^{10}}}"], ["3"]) == [0.0]


def test_ordinary_mathematics_is_light() -> None:
    for text in (
        r"\frac{1}{2}",
        "2^{10}",
        "5!",
        r"\sqrt{\frac{x^2}{y^3}}",
        "x^2+y^2=4",
        "a^2-b^2",
        r"3^4\cdot 5^2",
        r"2^{10} \cdot 3^{12} \cdot 5^{7}",
        "(x^2+1)^3(y^4-2)^5",
        "x^{n^2}",
        "e^{-x^2}",
        "2^{2^{3}}",
        "10^{-12}",
        "(2^3)^4",
        "+".join(f"{i}x^{{{i}}}" for i in range(30)),
    ):
        assert not too_heavy(text), text


@pytest.mark.parametrize(
    ("gold", "prediction", "equal"),
    [
        ("x^2+y^2=4", "y^2 + x^2 = 4", True),
        ("a^2-b^2", "(a-b)(a+b)", True),
        (r"3^4\cdot 5^2", "2025", True),
        ("C", "C.", True),
        ("C", "(C)", True),
        ("C", "D.", False),
        ("C", "(C) or (D)", False),
        ("x+1", "x+1.", True),
        ("20", r"\text{20}", True),
        ("8", r"8\%", False),
        (r"8\%", "8", False),
        (r"8\%", "0.08", True),
        (r"8\%", "8 percent", True),
        (r"8\%", r"\frac{2}{25}", True),
        (r"\$18.90", "18.90", True),
        ("18.9", "$18.90", True),
        ("18.90", "18.90 dollars", True),
        (r"\$5", "5 cents", False),
        ("5 cm", "5 m", False),
        ("5 m", "500 cm", True),
        (r"5\text{ cm}", "5", True),
        (r"5\text{ cm}^2", "5 square cm", True),
        ("60 km/h", "60 miles per hour", False),
        ("5m", "5n", False),
        (r"12\pi \text{ cm}", r"12 \pi\ \mathrm{cm}", True),
        ("10000", r"10\,000", True),
        ("10{,}000", "10,000.00", True),
        ("1e3", "1000", True),
        ("1  2", "12", False),
        ("12", "1 2", False),
        ("-3", "\u22123", True),
    ],
)
def test_periods_units_money_and_per_cent(
    pool: MathPool, gold: str, prediction: str, equal: bool
) -> None:
    assert pool.equal([(gold, prediction)]) == [equal]


def test_a_tower_that_no_check_sees_meets_the_deadline() -> None:
    pool = MathPool(num_workers=1, seconds=6.0)
    started = time.monotonic()
    try:
        for heavy in (
            "((9^9)^9)^{(9^9)^9}",
            "((((3!)!)!)!)!",
            r"2^{2^{2^{2^{x}}}} + \binom{10^9}{5 \cdot 10^8}",
        ):
            assert pool.equal([("3", heavy)])[0] is not True
        assert pool.equal([("x+1", "1+x")]) == [True]
    finally:
        pool.close()
    assert (
        time.monotonic() - started < 90
    )  # a guard: four verdicts of at most 6 s, and starts of the process


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
    threads = [
        threading.Thread(target=lambda: found.append(math([r"\boxed{2x}"], ["x+x"])))
        for _ in range(3)
    ]
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
