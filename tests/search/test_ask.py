"""Seeds, stop strings and limits of a search's calls."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from posttrain.budget import Budget
from posttrain.episodes.drive import EngineAsk, drive
from posttrain.search.ask import EngineSearchAsk, path_room
from posttrain.search.base import Candidate
from posttrain.types import Request, Sample, Sampling


class Recorder:
    """An engine that remembers what it was asked."""

    context_length = 8

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def generate(self, requests: Sequence[Request]) -> list[list[Sample]]:
        self.requests += requests
        return [[Sample([5], [-1.0], [-0.5], "stop", "|") for _ in range(r.n)] for r in requests]


def asked(use: Any, engine: Recorder | None = None, seed: int = 10) -> Any:
    """What `use(ask)` returns, with an ask about the prompt (1,)."""

    async def program(engine_ask: EngineAsk) -> Any:
        ask = EngineSearchAsk(engine_ask, lambda s: "x" * len(s.ids), (1,), Budget(max_tokens=1000))
        return await use(ask)

    sampling = Sampling(max_tokens=9, stop=("!",))
    (result,) = drive([program], engine or Recorder(), sampling=sampling, seeds=[seed])  # type: ignore[arg-type]
    return result


def test_the_first_call_has_the_seed_of_the_search_and_later_ones_their_own() -> None:
    engine = Recorder()

    async def use(ask: EngineSearchAsk) -> None:
        await ask((1,), 2)
        await asyncio.gather(ask((1,)), ask((1, 5)), ask((1, 5)))

    asked(use, engine)
    seeds = [r.seed for r in engine.requests]
    assert seeds[0] == 10 and len(set(seeds)) == 4
    again = Recorder()

    async def swapped(ask: EngineSearchAsk) -> None:
        await asyncio.gather(ask((1, 5)), ask((1, 5)))
        await ask((1,), 2)

    asked(swapped, again)
    assert [r.seed for r in again.requests] == [*seeds[2:], seeds[0]]


def test_stop_strings_are_added_and_limits_replace() -> None:
    engine = Recorder()

    async def use(ask: EngineSearchAsk) -> list[Candidate]:
        return await ask((1,), stop=("\n", "!"), max_tokens=4, temperature=0.0)

    (candidate,) = asked(use, engine)
    assert engine.requests[0].sampling == Sampling(max_tokens=4, temperature=0.0, stop=("!", "\n"))
    assert candidate == Candidate((5,), "x", -0.5, True, "|", (-0.5,), (), (1,))


def test_a_full_context_and_no_room_give_empty_candidates() -> None:
    engine = Recorder()

    async def use(ask: EngineSearchAsk) -> Any:
        return await ask((1,) * 8, 2), await ask((1,), max_tokens=0), path_room(ask, (1, 2))

    full, none, room = asked(use, engine)
    assert [(c.ids, c.ended) for c in [*full, *none]] == [((), False)] * 3
    assert room == 7 and not engine.requests


def test_random_numbers_follow_from_the_seed() -> None:
    async def use(ask: EngineSearchAsk) -> float:
        return ask.random.random()

    assert asked(use) == asked(use) != asked(use, seed=11)
