from __future__ import annotations

import os
import signal
import threading
import time

import pytest

pytest.importorskip("math_verify")

from posttrain.rewards.math import MathPool, math, shared_pool


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
