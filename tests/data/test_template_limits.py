"""A rendering has bounds of time and memory, and leaves the process as it was."""

from __future__ import annotations

import signal
import sys
import threading
import time

import pytest

from posttrain.data import template_limits
from posttrain.data.template_limits import TemplateTimeout, bounded_rendering

needs_timers = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")
needs_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="no limit here")


@needs_timers
def test_an_endless_loop_ends_although_it_catches_exceptions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(template_limits, "SECONDS", 0.05)
    with pytest.raises(TemplateTimeout), bounded_rendering():
        while True:
            try:
                time.sleep(0.01)
            except Exception:
                continue


@needs_timers
def test_handler_and_timer_of_others_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    rung: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: rung.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 50.0)
        with bounded_rendering():
            assert signal.getitimer(signal.ITIMER_REAL)[0] <= template_limits.SECONDS
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 50.0
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.raise_signal(signal.SIGALRM)
        assert rung == [signal.SIGALRM]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@needs_linux
def test_memory_is_bounded_within_and_free_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    import resource

    monkeypatch.setattr(template_limits, "MEMORY", 2**28)
    before = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(MemoryError), bounded_rendering():
        bytearray(2**30)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    assert len(bytearray(2**20)) == 2**20


@needs_timers
def test_another_thread_sets_no_timer() -> None:
    """Signals reach the main thread alone, so that a timer would stop something else."""
    before = signal.getsignal(signal.SIGALRM)
    seen: list[object] = []

    def render() -> None:
        with bounded_rendering():
            seen.append(signal.getsignal(signal.SIGALRM))

    thread = threading.Thread(target=render)
    thread.start()
    thread.join()
    assert seen == [before]
