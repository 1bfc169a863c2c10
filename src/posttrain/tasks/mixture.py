"""Several tasks as one: the prompts of all, each with its own verdict."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from posttrain import registry
from posttrain.config import Component
from posttrain.errors import ConfigError
from posttrain.registry import tasks
from posttrain.types import Example, Task


@tasks.register
def mixture(*, tasks: list[dict[str, Any]], seed: int = 0) -> Task:
    """The examples of several tasks in a drawn order, each scored by the task that it is from.

    Where the tasks have different stop strings, none ends a sample, and a text is cut at those of
    its own task before it is scored. The column "task" of an example is the name of its task, so
    that rewards can tell them apart. An answer is what the first of the tasks extracts that
    extracts one.

    Args:
        tasks: tasks with their settings, such as {name: arithmetic, num_examples: 100}.
        seed: of the order.
    """
    return mixed([_made(value, place) for place, value in enumerate(tasks)], seed=seed)


def mixed(parts: Sequence[Task], *, seed: int = 0) -> Task:
    """Several tasks as one, as `mixture` makes it.

    Raises:
        ConfigError: there are no tasks, or they have different system messages.
    """
    if not parts:
        raise ConfigError("mixture: tasks is empty; name at least one task")
    if len({part.system for part in parts}) > 1:
        raise ConfigError(
            "mixture: its tasks have different system messages, and all prompts get one; put them "
            "into the prompts"
        )
    owners: dict[str, Task] = {}
    examples: list[Example] = []
    for place, part in enumerate(parts):
        for number, example in enumerate(part.examples):
            name = f"{place}-{example.id or number}"
            owners[name] = part
            columns = {**example.columns, "task": part.name}
            examples.append(replace(example, columns=columns, id=name))
    random.Random(f"mixture {seed}").shuffle(examples)

    def score(text: str, example: Example) -> float:
        owner = owners[example.id]
        return owner.score(_cut(text, owner.stop), example)

    def extract(text: str) -> str | None:
        answers = (part.extract(_cut(text, part.stop)) for part in parts)
        return next((answer for answer in answers if answer is not None), None)

    return Task(
        "mixture",
        examples,
        score,
        extract,
        system=parts[0].system,
        stop=parts[0].stop if len({part.stop for part in parts}) == 1 else (),
        max_tokens=max(part.max_tokens for part in parts),
        unscored=next((part.unscored for part in parts if part.unscored), ""),
    )


def _cut(text: str, stop: Sequence[str]) -> str:
    """The text up to the first stop string."""
    return text[: min((text.index(s) for s in stop if s in text), default=len(text))]


def _made(value: dict[str, Any], place: int) -> Task:
    made = registry.tasks.bind_of(Component.of(value), f"tasks[{place}]")()
    if not isinstance(made, Task):
        raise ConfigError(f"mixture: tasks[{place}] is {type(made).__name__} and no task")
    return made
