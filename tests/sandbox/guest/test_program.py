"""A program in its process, as the interpreter would run it."""

from __future__ import annotations

import os
from typing import Any

import pytest

from posttrain.sandbox.guest.program import run


def outcome(source: str, kind: str = "script") -> tuple[int, str]:
    """Exit code and standard output of a job in a child process."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(write, 1)
        os.dup2(write, 2)
        job: dict[str, Any] = {"kind": kind, "source": source}
        os.close(read)
        run(job, -1, -1)
        os._exit(99)
    os.close(write)
    with open(read, "rb") as file:  # noqa: PTH123 (a number, not a path)
        text = file.read().decode()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text


@pytest.mark.parametrize(
    ("source", "code", "text"),
    [
        ("import os; os.write(1, b'a')", 0, "a"),
        ("raise SystemExit", 0, ""),
        ("raise SystemExit(3)", 3, ""),
        ("raise SystemExit(259)", 3, ""),
        ("import sys, os\nassert sys.modules['__main__'].x == 1 if 'x' in dir() else True", 0, ""),
        ("import atexit, os\natexit.register(os.write, 1, b'z')", 0, "z"),
        ("if __name__ == '__main__':\n    raise SystemExit(5)", 5, ""),
    ],
)
def test_ends(source: str, code: int, text: str) -> None:
    assert outcome(source) == (code, text)


def test_functions_are_not_the_main_program() -> None:
    """Code behind `if __name__ == "__main__"` does not run where functions are tested."""
    code, _ = outcome(
        "if __name__ == '__main__':\n    raise SystemExit(5)\nraise SystemExit(6)", "calls"
    )
    assert code == 6
