"""Graph of thoughts: operations over a graph without cycles."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from posttrain.errors import ConfigError
from posttrain.registry import searches
from posttrain.search.base import Candidate, Ids, Selection, select
from posttrain.search.dialogue import check_template, filled, question_of, rewritten
from posttrain.search.scores import best_paths, best_place
from posttrain.search.steps import at_least
from posttrain.types import Text


@dataclass(frozen=True, slots=True)
class Operation:
    """A node of the graph, whose result is a list of thoughts.

        generate:  `number` samples of the prompt
        score:     the thoughts of its inputs with their scores
        keep_best: the `number` thoughts of highest score
        aggregate: `number` new thoughts, each from all thoughts of its inputs, if there are two
        improve:   `number` new thoughts from each thought

    inputs: names of the operations whose thoughts it takes, one list after the other.
    """

    name: str
    kind: Literal["generate", "score", "keep_best", "aggregate", "improve"]
    inputs: tuple[str, ...] = ()
    number: int = 1


@dataclass(frozen=True, slots=True)
class Thinking:
    """What the operations of a graph work with, by the names of a search's inputs.

    aggregation, improvement: prompts with {problem} and {thoughts}.

    Raises:
        ConfigError: a prompt without {thoughts}.
    """

    prompt: Ids
    ask: Any
    score: Any
    problem: Text
    render: Any
    aggregation: str = "{problem}\n\nSolutions:\n{thoughts}\n\nWrite one better solution.\n"
    improvement: str = "{problem}\n\nA solution:\n{thoughts}\n\nWrite a better one.\n"

    def __post_init__(self) -> None:
        check_template("graph_of_thoughts.aggregation", self.aggregation, ("thoughts",))
        check_template("graph_of_thoughts.improvement", self.improvement, ("thoughts",))

    async def result(self, operation: Operation, thoughts: list[Candidate]) -> list[Candidate]:
        """The thoughts of an operation, given those of its inputs."""
        if operation.kind == "generate":
            return list(await self.ask(self.prompt, operation.number))
        if operation.kind == "score":
            numbers = await self.score(thoughts)
            return [t.scored(number) for t, number in zip(thoughts, numbers, strict=True)]
        if operation.kind == "keep_best":
            return best_paths(thoughts, operation.number)
        if operation.kind == "aggregate":
            if len(thoughts) < 2:
                return []
            listed = "\n".join(f"{i}. {t.text}" for i, t in enumerate(thoughts, 1))
            return await self._new(self.aggregation, listed, operation.number)
        parts = [
            self._new(self.improvement, thought.text, operation.number) for thought in thoughts
        ]
        return [new for group in await asyncio.gather(*parts) for new in group]

    async def _new(self, template: str, thoughts: str, n: int) -> list[Candidate]:
        if self.ask.budget.is_spent:
            return []
        text = filled(template, problem=question_of(self.problem), thoughts=thoughts)
        return list(await self.ask(self.render(rewritten(self.problem, text)), n))


def levels(operations: Sequence[Operation]) -> list[list[Operation]]:
    """Operations in an order in which inputs come first; those of a level run side by side.

    Raises:
        ConfigError: two of one name, an unknown input, a wrong number of inputs, or a cycle.
    """
    names = [operation.name for operation in operations]
    for operation in operations:
        if names.count(operation.name) > 1:
            raise ConfigError(f"graph of thoughts: two operations are called {operation.name!r}")
        for name in operation.inputs:
            if name not in names:
                raise ConfigError(
                    f"graph of thoughts: {operation.name!r} takes {name!r}, which is none of "
                    f"{', '.join(names)}"
                )
        if (operation.kind == "generate") == bool(operation.inputs):
            raise ConfigError(
                f"graph of thoughts: {operation.name!r} ({operation.kind}) has inputs "
                f"{list(operation.inputs)}; generate takes none, and every other operation some"
            )
        at_least(f"graph of thoughts: {operation.name}", number=operation.number)
    ordered: list[list[Operation]] = []
    done: set[str] = set()
    while len(done) < len(operations):
        ready = [o for o in operations if o.name not in done and done.issuperset(o.inputs)]
        if not ready:
            cycle = ", ".join(name for name in names if name not in done)
            raise ConfigError(f"graph of thoughts: {cycle} wait for each other in a cycle")
        ordered.append(ready)
        done.update(operation.name for operation in ready)
    return ordered


async def thoughts_of(
    operations: Sequence[Operation], thinking: Thinking
) -> dict[str, list[Candidate]]:
    """The thoughts of each operation, by its name.

    Raises:
        ConfigError: a graph that cannot be run (`levels`).
    """
    results: dict[str, list[Candidate]] = {}
    for level in levels(operations):
        inputs = [[t for name in o.inputs for t in results[name]] for o in level]
        parts = [thinking.result(o, given) for o, given in zip(level, inputs, strict=True)]
        results.update(zip([o.name for o in level], await asyncio.gather(*parts), strict=True))
    return results


def default_graph(num_branches: int, num_best: int, num_aggregates: int) -> list[Operation]:
    """generate -> score -> keep best -> aggregate -> score."""
    return [
        Operation("generated", "generate", (), num_branches),
        Operation("scored", "score", ("generated",)),
        Operation("kept", "keep_best", ("scored",), num_best),
        Operation("aggregated", "aggregate", ("kept",), num_aggregates),
        Operation("scored_aggregates", "score", ("aggregated",)),
    ]


@searches.register
async def graph_of_thoughts(
    prompt,
    ask,
    extract,
    score,
    problem,
    render,
    *,
    num_branches: int = 4,
    num_best: int = 2,
    num_aggregates: int = 2,
    improve_rounds: int = 0,
    aggregation: str = (
        "{problem}\n\nSolutions by others:\n{thoughts}\n\n"
        "Combine what is right in them into one better solution.\n"
    ),
    improvement: str = (
        "{problem}\n\nA solution:\n{thoughts}\n\nFind its mistakes and write a better solution.\n"
    ),
) -> Selection:
    """Graph of thoughts (Besta et al., arXiv 2308.09687).

        generate num_branches -> score -> keep the best num_best -> aggregate num_aggregates
        -> score -> keep the best -> improve and score, improve_rounds times -> the best of all

    A thought is a whole completion. Its place among the samples is the order of the operations.
    Without a second thought to combine, nothing is aggregated, so that one branch is one sample.
    Other graphs: `Operation` and `thoughts_of` of posttrain.search.graph, in a search of your own.

    aggregation, improvement: prompts with {problem} and {thoughts}.
    """
    at_least("graph_of_thoughts", 0, improve_rounds=improve_rounds)
    operations = default_graph(num_branches, num_best, num_aggregates)
    scored = ["scored", "scored_aggregates"]
    for i in range(improve_rounds):
        best, better, again = f"best_{i}", f"improved_{i}", f"scored_{i}"
        operations += [
            Operation(best, "keep_best", tuple(scored)),
            Operation(better, "improve", (best,)),
            Operation(again, "score", (better,)),
        ]
        scored.append(again)
    thinking = Thinking(prompt, ask, score, problem, render, aggregation, improvement)
    results = await thoughts_of(operations, thinking)
    thoughts = [thought for name in scored for thought in results[name]]
    whole = [thought.ended for thought in thoughts]
    place = best_place(thoughts, whole if any(whole) else None)
    return select(
        thoughts,
        place,
        extract,
        None,
        num_operations=len(operations),
        num_aggregated=len(results["aggregated"]),
    )
