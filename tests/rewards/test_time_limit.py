"""A time limit that interrupts loops, waits, regular expressions and coroutines, in any thread."""

from __future__ import annotations

import asyncio
import re
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from posttrain import registry
from posttrain.errors import RewardError
from posttrain.rewards.base import RewardSet
from posttrain.rewards.time_limit import TimeLimitExceeded, call_within
from posttrain.types import Example, Sample, Trace, TraceGroup


def loop() -> None:
    while True:
        pass


def wait() -> None:
    time.sleep(60)


def search() -> None:
    re.search(r"(a+)+$", "a" * 60 + "!")


def swallow() -> None:
    try:
        time.sleep(60)
    except Exception:
        time.sleep(60)


def locked() -> None:
    threading.Event().wait(60)


@pytest.mark.parametrize("function", [loop, wait, search, swallow, locked])
def test_in_the_main_thread(function: Callable[[], None]) -> None:
    before = signal.getsignal(signal.SIGVTALRM), signal.getsignal(signal.SIGINT)
    started = time.monotonic()
    with pytest.raises(TimeLimitExceeded):
        call_within(function, what="it", seconds=0.3)
    assert (
        time.monotonic() - started < 30
    )  # the guard works; it ends long before the function would
    assert (signal.getsignal(signal.SIGVTALRM), signal.getsignal(signal.SIGINT)) == before
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)


@pytest.mark.parametrize("function", [loop, wait, locked])
def test_in_another_thread(function: Callable[[], None]) -> None:
    outcomes: list[Any] = []

    def work() -> None:
        try:
            outcomes.append(call_within(function, what="it", seconds=0.3))
        except BaseException as error:
            outcomes.append(type(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30)
    assert outcomes == [TimeLimitExceeded]


def test_values_and_exceptions_pass_through() -> None:
    assert call_within(lambda: 5, what="it", seconds=10) == 5
    assert call_within(lambda: 5, what="it", seconds=0) == 5
    with pytest.raises(ZeroDivisionError):
        call_within(lambda: 1 / 0, what="it", seconds=10)

    async def notebook() -> list[
        int
    ]:  # a running loop, as in a notebook: asyncio.run may be used within
        async def five() -> int:
            return 5

        return [call_within(lambda: asyncio.run(five()), what="it", seconds=10)]

    assert asyncio.run(notebook()) == [5]


def test_a_notice_names_what_runs_and_how_long(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TimeLimitExceeded):
        call_within(wait, what="reward 'slow'", seconds=1.0, notice_seconds=0.2)
    lines = capsys.readouterr().err.strip().splitlines()
    assert (
        "reward 'slow' has been running for 0 s; its limit is 1 s (reward_timeout_seconds)"
        in lines[0]
    )
    assert len([line for line in lines if "has been running" in line]) in (
        2,
        3,
    )  # at 0.2, 0.4 and 0.8 s


def test_a_second_ctrl_c_ends_even_what_catches_it() -> None:
    presses: list[int] = []

    def handle(number: int, frame: Any) -> None:
        presses.append(number)
        if len(presses) > 1:
            raise KeyboardInterrupt

    def stubborn() -> None:
        until = time.monotonic() + 60
        caught = 0
        while time.monotonic() < until and caught < 2:
            try:
                time.sleep(60)
            except KeyboardInterrupt:
                caught += 1
        raise KeyboardInterrupt

    def press() -> None:
        for _ in range(2):
            time.sleep(0.3)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    before = signal.signal(signal.SIGINT, handle)
    try:
        threading.Thread(target=press, daemon=True).start()
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            call_within(stubborn, what="it", seconds=50)
        assert time.monotonic() - started < 30 and presses == [signal.SIGINT] * 2
        assert signal.getsignal(signal.SIGINT) is handle
    finally:
        signal.signal(signal.SIGINT, before)


def test_rewards_that_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.rewards, "_functions", dict(registry.rewards._functions))

    @registry.rewards.register
    def hangs(completions):
        """Never returns."""
        time.sleep(60)

    @registry.rewards.register
    async def hangs_awaiting(completions):
        """Never returns, asynchronously."""
        await asyncio.sleep(60)

    example = Example("p", " 1", "1", id="e")
    made = TraceGroup(
        example, (1,), [Trace.of_sample((1,), Sample([1], [0.0], [0.0], "stop"), t) for t in "ab"]
    )
    for name in ("hangs", "hangs_awaiting"):
        with pytest.raises(
            RewardError,
            match=f"'{name}' took longer than 0.3 s for 2 completions.*reward_timeout_seconds",
        ):
            RewardSet([(name, 1.0, {})], timeout_seconds=0.3).reward([made])
