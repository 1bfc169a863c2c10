"""Calls that many coroutines make at the same time, as one call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batched(Generic[Item, Result]):
    """A coroutine function of one item, on a function of many.

        value = Batched(critic.at_ends)
        number = await value(state)          # one call for all coroutines that wait here

    The function is called when every coroutine that can run has run. What it raises, each of them
    raises.
    """

    def __init__(self, function: Callable[[Sequence[Item]], Sequence[Result]]) -> None:
        self._function = function
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []

    async def __call__(self, item: Item) -> Result:
        """The result for an item."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._waiting.append((item, future))
        if len(self._waiting) == 1:
            loop.call_soon(self._answer)
        return await future

    def _answer(self) -> None:
        waiting, self._waiting = self._waiting, []
        try:
            results = self._function([item for item, _ in waiting])
        except Exception as error:
            for _, future in waiting:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), result in zip(waiting, results, strict=True):
            if not future.done():
                future.set_result(result)
