"""Calls in a thread: values, errors, deadlines, one thread for an episode."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from posttrain.episodes.worker import Worker

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def test_values_and_errors_are_data() -> None:
    async def main() -> list[Any]:
        worker = Worker()

        def leave() -> None:
            raise SystemExit(1)

        called = [await worker.call(lambda: 7), await worker.call(lambda: 1 / 0)]
        called.append(await worker.call(leave))
        worker.close()
        return called

    value, error, left = run(main())
    assert value.value == 7 and value.error is None and not value.timed_out
    assert isinstance(error.error, ZeroDivisionError) and error.value is None
    assert isinstance(left.error, SystemExit)


def test_all_calls_of_an_episode_share_a_thread() -> None:
    async def main() -> list[Any]:
        worker = Worker("episode 3")
        names = [(await worker.call(threading.current_thread)).value for _ in range(3)]
        worker.close()
        return names

    threads = run(main())
    assert len(set(threads)) == 1 and threads[0].name == "episode 3"
    threads[0].join(5)
    assert not threads[0].is_alive()


def test_a_call_that_takes_too_long_is_interrupted_and_left() -> None:
    seen: list[threading.Thread] = []

    def spins() -> None:
        seen.append(threading.current_thread())
        while True:
            pass

    async def main() -> tuple[Any, Any]:
        worker = Worker()
        late = await worker.call(spins, seconds=0.1)
        again = await worker.call(lambda: "next", seconds=5)
        worker.close()
        return late, again

    late, again = run(main())
    assert late.timed_out and late.seconds >= 0.1
    assert again.value == "next"
    seen[0].join(5)
    assert not seen[0].is_alive()


def test_the_thread_measures_and_not_the_loop() -> None:
    """A call that is in time is so even where the loop looks at it too late."""

    async def main() -> Any:
        worker = Worker()
        asyncio.get_running_loop().call_soon(time.sleep, 0.3)
        called = await worker.call(lambda: time.sleep(0.05), seconds=0.2)
        late = await worker.call(lambda: time.sleep(0.1), seconds=0.05)
        worker.close()
        return called, late

    called, late = run(main())
    assert not called.timed_out and called.error is None
    assert late.timed_out


def test_coroutine_functions_run_on_the_loop() -> None:
    async def tool() -> int:
        await asyncio.sleep(0)
        return threading.get_ident()

    async def slow() -> None:
        await asyncio.sleep(60)

    async def broken() -> None:
        raise KeyError("x")

    async def cancelled() -> None:
        raise asyncio.CancelledError

    async def main() -> None:
        worker = Worker()
        assert (await worker.call(tool)).value == threading.get_ident()
        assert (await worker.call(lambda: tool())).value == threading.get_ident()
        assert (await worker.call(slow, seconds=0.05)).timed_out
        assert isinstance((await worker.call(broken)).error, KeyError)
        assert isinstance((await worker.call(cancelled)).error, asyncio.CancelledError)

    run(main())


def test_a_cancelled_call_leaves_its_thread() -> None:
    entered, seen = threading.Event(), []

    def spins() -> None:
        seen.append(threading.current_thread())
        entered.set()
        while True:
            pass

    async def main() -> None:
        worker = Worker()
        call = asyncio.ensure_future(worker.call(spins))
        while not entered.is_set():
            await asyncio.sleep(0.01)
        call.cancel()
        await asyncio.wait({call})
        assert call.cancelled()

    run(main())
    seen[0].join(5)
    assert not seen[0].is_alive()


def test_a_slow_call_stops_nobody_else() -> None:
    async def main() -> float:
        started = time.monotonic()
        workers = [Worker() for _ in range(20)]
        await asyncio.gather(*[w.call(lambda: time.sleep(0.2)) for w in workers])
        for worker in workers:
            worker.close()
        return time.monotonic() - started

    assert run(main()) < 20 * 0.2
