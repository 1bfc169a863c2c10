"""Calls that wait together are one call."""

from __future__ import annotations

import asyncio

import pytest

from posttrain.search.batched import Batched


def test_what_waits_together_is_one_call() -> None:
    calls = []

    def double(items):
        calls.append(list(items))
        return [2 * item for item in items]

    async def run() -> list[int]:
        twice = Batched(double)

        async def chain(start: int) -> int:
            return await twice(await twice(start))

        return await asyncio.gather(*map(chain, (1, 2, 3)))

    assert asyncio.run(run()) == [4, 8, 12]
    assert calls == [[1, 2, 3], [2, 4, 6]]


def test_an_error_reaches_everyone() -> None:
    async def run() -> list[object]:
        broken = Batched(lambda items: [1 / 0 for _ in items])
        return await asyncio.gather(broken(1), broken(2), return_exceptions=True)

    assert [type(e) for e in asyncio.run(run())] == [ZeroDivisionError] * 2


def test_a_cancelled_call_does_not_disturb_others() -> None:
    async def run() -> int:
        same = Batched(lambda items: list(items))
        lost = asyncio.ensure_future(same(1))
        kept = asyncio.ensure_future(same(2))
        await asyncio.sleep(0)
        lost.cancel()
        with pytest.raises(asyncio.CancelledError):
            await lost
        return await kept

    assert asyncio.run(run()) == 2
