"""Traces by episodes: their seeds, and those that fail."""

from __future__ import annotations

from typing import Any

import pytest

from posttrain.errors import EpisodeError
from posttrain.sources.episodes import EpisodeSampler
from posttrain.types import Example, Request, Sample, Sampling, Trace


class Engine:
    """Ids that follow from the request's seed."""

    def generate(self, requests: list[Request]) -> list[list[Sample]]:
        return [[Sample([r.seed % 97], [0.0], [0.0], "stop") for _ in range(r.n)] for r in requests]


EXAMPLES = [Example("a"), Example("b", columns={"seed": 5})]


async def one(example: Example, ask: Any, tools: Any) -> Trace:
    (sample,) = await ask((1, 2))
    trace = Trace.of_sample((1, 2), sample, "")
    trace.metrics["seed"] = example.columns["seed"]
    return trace


def traces(episode: Any, n: int = 4, **settings: Any) -> list[list[Trace]]:
    engine: Any = Engine()
    return EpisodeSampler(episode, **settings).traces(engine, EXAMPLES, [11, 12], n, Sampling())


def test_a_group_begins_alike_and_samples_apart() -> None:
    rows = traces(one)
    assert [[t.metrics["seed"] for t in row] for row in rows] == [[11] * 4, [5] * 4]
    written = [tuple(t.sample.ids) for row in rows for t in row]
    assert len(set(written)) > 4
    again = traces(one, max_concurrent=1)
    assert [tuple(t.sample.ids) for row in again for t in row] == written
    fewer = traces(one, n=2)
    assert [t.sample.ids for t in fewer[0]] == [t.sample.ids for t in rows[0][:2]]


def failing(times: int) -> Any:
    left = iter([True] * times + [False] * 99)

    async def episode(example: Example, ask: Any, tools: Any) -> Trace:
        if next(left):
            raise ValueError("no board")
        return await one(example, ask, tools)

    return episode


def test_a_few_failures_are_data() -> None:
    rows = traces(failing(2), max_failed=0.5)
    errors = [t.error for row in rows for t in row]
    assert sum(e is not None for e in errors) == 2 and "ValueError: no board" in errors


@pytest.mark.parametrize(("times", "most"), [(3, 0.25), (8, 1.0)])
def test_too_many_failures_stop_the_run(times: int, most: float) -> None:
    with pytest.raises(EpisodeError, match=f"{times} of 8 .*ValueError: no board"):
        traces(failing(times), max_failed=most)


def test_an_episode_returns_a_trace() -> None:
    async def text(example: Example, ask: Any, tools: Any) -> Any:
        return "done"

    with pytest.raises(EpisodeError, match=r"returned str; it must return a posttrain\.Trace"):
        traces(text)
