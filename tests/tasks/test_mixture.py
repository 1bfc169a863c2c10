"""Several tasks as one."""

from __future__ import annotations

from typing import Any

import pytest

from posttrain.errors import ConfigError
from posttrain.registry import tasks
from posttrain.tasks.mixture import mixed, mixture
from posttrain.types import Example, Task

ARITHMETIC: dict[str, Any] = {"name": "arithmetic", "num_examples": 4, "num_steps": 1}
SORTING: dict[str, Any] = {"name": "sorting", "num_examples": 3}


def test_each_example_is_scored_by_its_own_task() -> None:
    task = mixture(tasks=[ARITHMETIC, SORTING])
    assert (
        sorted(str(e.columns["task"]) for e in task.examples)
        == ["arithmetic"] * 4 + ["sorting"] * 3
    )
    assert all(task.score(str(e.completion), e) == 1.0 for e in task.examples)
    assert all(task.score("", e) == 0.0 for e in task.examples)
    parts = [
        tasks.bind(t["name"], {k: v for k, v in t.items() if k != "name"})()
        for t in (ARITHMETIC, SORTING)
    ]
    assert task.max_tokens == max(part.max_tokens for part in parts)


def test_ids_differ_and_the_order_follows_from_the_seed() -> None:
    task, again = (mixture(tasks=[ARITHMETIC, ARITHMETIC]) for _ in range(2))
    other = mixture(tasks=[ARITHMETIC, ARITHMETIC], seed=1)
    ids = [e.id for e in task.examples]
    assert len(set(ids)) == 8 and ids == [e.id for e in again.examples]
    assert ids != [e.id for e in other.examples] and sorted(ids) == sorted(
        e.id for e in other.examples
    )


def test_an_answer_is_the_first_that_a_task_extracts() -> None:
    def part(extracted: str | None) -> Task:
        return Task("t", [Example("p")], lambda text, e: 1.0, lambda text: extracted)

    assert mixed([part(None), part("b"), part("c")]).extract("") == "b"
    assert mixed([part(None)]).extract("") is None


@pytest.mark.parametrize("given", [[], [{"name": "arithmatic"}], [{"name": "arithmetic", "a": 1}]])
def test_what_is_no_task_is_refused(given: list[dict[str, Any]]) -> None:
    with pytest.raises(ConfigError):
        mixture(tasks=given)


def test_a_text_is_cut_at_the_stops_of_its_own_task() -> None:
    def part(name: str, stop: tuple[str, ...], system: str | None = None) -> Task:
        examples = [Example("p", answer="a")]
        return Task(name, examples, lambda t, e: float(t == "a"), str, system=system, stop=stop)

    task = mixed([part("lines", ("\n",)), part("whole", ())])
    scores = {e.columns["task"]: task.score("a\nb", e) for e in task.examples}
    assert task.stop == () and scores == {"lines": 1.0, "whole": 0.0}
    assert mixed([part("one", ("\n",)), part("two", ("\n",))]).stop == ("\n",)
    with pytest.raises(ConfigError):
        mixed([part("one", ()), part("two", (), "Be brief.")])
