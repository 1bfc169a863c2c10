"""Programs and tests in a pool of guests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from posttrain.errors import ConfigError, SandboxError
from posttrain.sandbox import bubblewrap, pool
from posttrain.sandbox.limits import SandboxLimits
from posttrain.sandbox.pool import FunctionTests, Sandbox, shared_sandbox, why_not

needs_sandbox = pytest.mark.skipif(bool(why_not()), reason=f"no sandbox: {why_not()}")
GENEROUS = SandboxLimits(seconds=30)


@pytest.fixture(scope="module", params=["bubblewrap", "none"])
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    if request.param == "bubblewrap" and why_not():
        pytest.skip(why_not())
    with Sandbox(request.param, num_workers=2, limits=GENEROUS) as sandbox:
        yield sandbox


def test_a_program_reads_input_and_its_end_is_reported(sandbox: Sandbox) -> None:
    run = sandbox.run("import sys\nprint(sys.stdin.read()[::-1])\nsys.exit(3)", "héllo")
    assert (run.status, run.code, run.stdout, run.succeeded) == ("ended", 3, "olléh\n", False)
    run = sandbox.run("1 / 0")
    assert run.code == 1 and "ZeroDivisionError" in run.stderr
    assert sandbox.run("import threading as t; t.Timer(.1, print, ['late']).start()").stdout == (
        "late\n"
    )


def test_large_input_and_output_pass(sandbox: Sandbox) -> None:
    text = "x" * 900_000
    assert sandbox.run("print(input())", text).stdout == f"{text}\n"


def test_limits_of_time_output_and_memory(sandbox: Sandbox) -> None:
    limits = SandboxLimits(seconds=0.5, output_bytes=1000)
    assert sandbox.run("while True: pass", limits=limits).status == "timeout"
    flood = sandbox.run("while True: print('x' * 100)", limits=limits)
    assert flood.status == "output" and len(flood.stdout) == 1000
    assert "MemoryError" in sandbox.run("bytearray(1 << 31)").stderr


def test_assertions_are_counted_one_by_one(sandbox: Sandbox) -> None:
    source = "def f(x):\n    return abs(x)\ndef g(x):\n    raise KeyError(x)"
    units = (
        "assert f(-1) == 1\nassert f(2) == 3\nassert f(4) == 4",
        "for i in range(3):\n    assert f(i) == i",
        "try:\n    g(1)\nexcept KeyError:\n    assert f(0) == 0",
        "g(1)\nassert f(1) == 1",
        "assert True, 'says nothing'",
    )
    run = sandbox.test(source, FunctionTests(units, ("f", "g")))
    assert (run.num_passed, run.num_tests) == (2 + 3 + 1 + 0 + 1, 3 + 3 + 1 + 1 + 1)
    assert not run.passed and run.share == pytest.approx(7 / 9)


@pytest.mark.parametrize(
    ("value", "test"),
    [
        ("{1: (2, {3}), 'a': None}", "assert f() == {1: (2, {3}), 'a': None}"),
        ("(1, [2])", "assert f() != [1, [2]] and type(f()) is tuple"),
        ("__import__('collections').Counter('aab')", "assert f() == {'a': 2, 'b': 1}"),
        ("__import__('decimal').Decimal('0.1')", "assert str(f()) == '0.1'"),
        ("10 ** 5000", "assert f() == 10 ** 5000"),
        ("float('nan')", "assert math.isnan(f())"),
        ("b'ab'", "assert f() == b'ab'"),
        ("3 + 4j", "assert abs(f()) == 5"),
        ("int", "assert f() is int"),
        ("(i * i for i in range(4))", "assert list(f()) == [0, 1, 4, 9]"),
        ("range(3)", "assert f() == range(3)"),
        ("True", "assert f() is True"),
    ],
)
def test_plain_data_arrives_as_it_is(sandbox: Sandbox, value: str, test: str) -> None:
    source = f"def f():\n    return {value}"
    assert sandbox.test(source, FunctionTests((test,), ("f",))).passed


def test_objects_of_the_program_are_used_where_they_are(sandbox: Sandbox) -> None:
    source = (
        "class Node:\n    def __init__(self, value):\n        self.value, self.left = value, None\n"
        "def depth(node):\n    return 1 + depth(node.left) if node else 0\n"
    )
    unit = "root = Node(1)\nroot.left = Node(2)\nassert depth(root) == 2\nassert root.value == 1"
    assert sandbox.test(source, FunctionTests((unit,), ("Node", "depth"))).passed


def test_a_setup_may_hold_a_stub_and_helpers(sandbox: Sandbox) -> None:
    setup = "def twice(x):\n    return 2 * x\ndef f(x):\n    pass\n"
    tests = FunctionTests(("assert f(3) == twice(3)",), ("f",), setup)
    assert sandbox.test("def f(x):\n    return x + x", tests).passed
    assert not sandbox.test("", tests).passed


@needs_sandbox
def test_equal_programs_give_equal_output() -> None:
    source = "print(list({str(i) for i in range(50)}), hash('a'))"
    with Sandbox(num_workers=2, limits=GENEROUS) as sandbox:
        assert len({run.stdout for run in sandbox.each(sandbox.run, [source] * 6)}) == 1


@needs_sandbox
def test_a_lost_guest_is_reported_and_replaced() -> None:
    with Sandbox(num_workers=1, limits=GENEROUS) as sandbox:
        sandbox.run("print(1)")
        guest = sandbox._guests[0][0]
        guest.kill()
        assert guest.receive(1).status == "lost"
        assert sandbox.run("print(2)").stdout == "2\n"


@needs_sandbox
def test_the_shared_sandbox_is_one() -> None:
    assert shared_sandbox() is shared_sandbox()


def test_without_a_sandbox_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "path_of_bwrap", lambda: None)
    why_not.cache_clear()
    try:
        with pytest.raises(SandboxError, match=r"none"):
            Sandbox()
        Sandbox("none").close()
    finally:
        why_not.cache_clear()


def test_a_sandbox_that_does_not_start_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "path_of_bwrap", lambda: "/bin/false")
    why_not.cache_clear()
    try:
        with pytest.raises(SandboxError, match="/bin/false"):
            Sandbox()
    finally:
        why_not.cache_clear()


@needs_sandbox
def test_a_sandbox_that_does_not_keep_programs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def command(bwrap: str, control: int) -> list[str]:
        words = bubblewrap.sandbox_command(bwrap, control)
        words[-1] = bubblewrap.guest_code(control, isolated=False, folder="/guest")
        return words

    monkeypatch.setattr(pool, "sandbox_command", command)
    why_not.cache_clear()
    try:
        assert "must not" in why_not()
    finally:
        why_not.cache_clear()


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ConfigError):
        Sandbox("docker")  # type: ignore[arg-type]


def test_sandbox_none_says_that_it_is_unsafe(capsys: pytest.CaptureFixture[str]) -> None:
    Sandbox("none").close()
    assert "trust" in capsys.readouterr().err
