"""No hostile program escapes, earns reward, or stalls the pool."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sandbox.hostile import PROGRAMS

from posttrain.sandbox.limits import SandboxLimits
from posttrain.sandbox.pool import FunctionTests, Sandbox, why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=f"no sandbox: {why_not()}")

RIGHT = "def f(x):\n    return sorted(x)\n"
TESTS = FunctionTests(
    (
        "assert f([3, 1, 2]) == [1, 2, 3]  # canary",
        "assert f([2, 1]) == [1, 2]",
        "assert f([5, 4]) == f([4, 5]) and f([1, 0]) == [0, 1]",
        "assert all(map(lambda x: f(x) == [0, x[0]], [[7, 0], [9, 0]]))",
    ),
    ("f",),
)
LIMITS = SandboxLimits(seconds=0.5, memory_bytes=256 << 20)
GENEROUS = SandboxLimits(seconds=20, memory_bytes=256 << 20)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    os.environ["CANARY"] = "canary"
    with Sandbox(num_workers=2, limits=LIMITS) as sandbox:
        yield sandbox
    del os.environ["CANARY"]


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A server that a program must not reach."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_there_are_thirty_of_them() -> None:
    assert len(PROGRAMS) >= 30


@pytest.mark.parametrize("name", PROGRAMS)
def test_it_neither_escapes_nor_earns_nor_stalls(sandbox: Sandbox, port: int, name: str) -> None:
    source = PROGRAMS[name].replace("PORT", str(port))
    started = time.monotonic()
    alone = sandbox.run(source)
    judged = sandbox.test(source, TESTS)
    assert "ESCAPED" not in alone.stdout + judged.program.stdout
    assert alone.status != "lost" and not judged.lost, (alone, judged)
    assert judged.num_tests >= 4 and judged.num_passed == 0, judged
    # Two programs, each with its time limit, and none that waits for the grace time of a guest.
    assert time.monotonic() - started < 2 * LIMITS.wall_seconds + 9
    assert sandbox.test(RIGHT, TESTS, limits=GENEROUS).passed
    assert sandbox.run("print(1)", limits=GENEROUS).stdout == "1\n"


def test_none_of_them_stalls_the_others(sandbox: Sandbox) -> None:
    """All at once, with right programs between them, which all pass."""
    sources = [s for source in PROGRAMS.values() for s in (source, RIGHT)]

    def run(pair: tuple[int, str]) -> bool:
        number, source = pair
        limits = GENEROUS if number % 2 else LIMITS
        return sandbox.test(source, TESTS, limits=limits).passed

    verdicts = sandbox.each(run, list(enumerate(sources)))
    assert verdicts == [False, True] * len(PROGRAMS)


def _descendants(pid: int) -> set[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return set()
    return {pid}.union(*(_descendants(int(child)) for child in children))


def _settled(pid: int, count: int) -> set[int]:
    """The processes of a guest, once there are so many: a supervisor ends after its answer."""
    deadline = time.monotonic() + 10
    while len(processes := _descendants(pid)) != count and time.monotonic() < deadline:
        time.sleep(0.02)
    return processes


def test_nothing_is_left_behind() -> None:
    sandbox = Sandbox(num_workers=1, limits=LIMITS)
    try:
        sandbox.run("print(1)", limits=GENEROUS)
        process = sandbox._guests[0][0]._process
        assert process is not None
        before = _settled(process.pid, 3)  # bwrap outside and inside, and the server
        for name in ("daemon", "threads", "loop", "fork_bomb", "sleep"):
            sandbox.run(PROGRAMS[name])
            assert _settled(process.pid, 3) == before
        for _ in range(2):
            left = sandbox.run(PROGRAMS["left_behind"], limits=GENEROUS)
            assert left.succeeded and left.stdout == ""
    finally:
        sandbox.close()
    deadline = time.monotonic() + 10
    while (alive := [p for p in before if Path(f"/proc/{p}").exists()]) and (
        time.monotonic() < deadline
    ):
        time.sleep(0.02)
    assert not alive


def test_an_interrupted_call_leaves_no_answer_for_the_next(sandbox: Sandbox) -> None:
    with Sandbox(num_workers=1, limits=SandboxLimits(seconds=20)) as alone:
        alone.run("print(1)")
        guest = alone._guests[0][0]
        thread = threading.Thread(target=lambda: alone.run("while True: pass"))
        thread.start()
        time.sleep(0.3)
        guest.kill()  # what an interrupt does
        thread.join(timeout=10)
        assert not thread.is_alive()
        assert alone.run("print(2)").stdout == "2\n"
