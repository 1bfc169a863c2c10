"""The judge's side of a test, and with it the program's: one process, two threads."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from posttrain.sandbox.guest.calls import CallServer
from posttrain.sandbox.guest.checks import Named, Program, ProgramError, Remote, run_tests
from posttrain.sandbox.guest.values import Channel

Connect = Callable[[dict[str, Any]], Program]


@pytest.fixture
def connect() -> Iterator[Connect]:
    ends = []
    threads = []

    def start(names: dict[str, Any]) -> Program:
        left, right = socket.socketpair()
        ends.extend([left, right])
        thread = threading.Thread(target=CallServer(Channel(right), names).serve)
        thread.start()
        threads.append(thread)
        return Program(Channel(left))

    yield start
    for end in ends[::2]:
        end.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join(timeout=10)
    for end in ends:
        end.close()


def test_functions_are_called_with_plain_data(connect: Connect) -> None:
    program = connect({"f": lambda a, b=2: (a, b)})
    assert Named(program, "f")(1) == (1, 2)
    assert Named(program, "f")([1], b={3}) == ([1], {3})


def test_built_in_exceptions_arrive_and_others_are_one(connect: Connect) -> None:
    class Own(Exception):
        pass

    def fail(kind: type[Exception]) -> None:
        raise {"own": Own("a")}.get(kind) or ValueError("b")  # type: ignore[call-overload]

    program = connect({"fail": fail})
    with pytest.raises(ValueError, match="b"):
        Named(program, "fail")("built-in")
    with pytest.raises(ProgramError, match="Own"):
        Named(program, "fail")("own")
    with pytest.raises(KeyError):
        Named(program, "missing")()


def test_an_object_is_equal_to_itself_alone(connect: Connect) -> None:
    class Equal:
        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 0

    held = Equal()
    program = connect({"f": lambda: held, "g": Equal, "plain": lambda v: v is held})
    first = Named(program, "f")()
    assert type(first) is Remote and first != 3 and first != Named(program, "g")()
    assert first == Named(program, "f")() and Named(program, "plain")(first) is True


def test_tests_report_each_assertion(connect: Connect) -> None:
    reports: list[Any] = []
    tests = {
        "setup": "limit = 3",
        "units": ["assert f(1) < limit\nassert f(9) < limit", "f(1)", "1 / 0\nassert f(0) == 0"],
        "names": ["f"],
    }
    run_tests(connect({"f": lambda x: x}), tests, reports.append)
    assert reports == [
        [0, "start", 2],
        [0, True],
        [0, False],
        [0, "end"],
        [1, "start", 0],
        [1, "end"],
        [2, "start", 1],
    ]


def test_a_setup_that_fails_fails_all(connect: Connect) -> None:
    reports: list[Any] = []
    tests = {"setup": "1 / 0", "units": ["assert f(1)"], "names": ["f"]}
    run_tests(connect({"f": lambda x: x}), tests, reports.append)
    assert reports == [[0, "start", 1]]
