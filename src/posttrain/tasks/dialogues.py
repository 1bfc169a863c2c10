"""The conversations of the embedded tool model: tool calls, worked answers, small instructions."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

from posttrain.errors import ConfigError
from posttrain.registry import tasks
from posttrain.tasks.arithmetic import draw_problem, held_out, question_text
from posttrain.tasks.calculator import (
    CALCULATE,
    asked,
    direct_answer,
    draw_chain,
    split_of,
    tool_conversation,
)
from posttrain.types import Example, Message, Task

_WORDS = [
    "apple",
    "bridge",
    "candle",
    "desert",
    "engine",
    "forest",
    "garden",
    "harbor",
    "island",
    "jacket",
    "kettle",
    "ladder",
    "market",
    "needle",
    "orange",
    "pencil",
    "quartz",
    "ribbon",
    "saddle",
    "timber",
    "uncle",
    "valley",
    "window",
    "yellow",
    "zebra",
]
_NAMES = ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana")
_CITIES = ("Bern", "Cairo", "Delhi", "Lima", "Oslo", "Paris", "Quito", "Rome")

Instruction = Callable[[random.Random], tuple[str, str]]
"""Draws (request, reply)."""


def _words(draw: random.Random) -> list[str]:
    return draw.sample(_WORDS, draw.randint(2, 4))


def _copy(draw: random.Random) -> tuple[str, str]:
    text = " ".join(_words(draw))
    return f"Repeat: {text}", text


def _upper(draw: random.Random) -> tuple[str, str]:
    text = " ".join(_words(draw))
    return f"In capitals: {text}", text.upper()


def _last(draw: random.Random) -> tuple[str, str]:
    words = _words(draw)
    return f"The last word of: {' '.join(words)}", words[-1]


def _count(draw: random.Random) -> tuple[str, str]:
    words = _words(draw)
    return f"How many words: {' '.join(words)}", str(len(words))


def _sorted(draw: random.Random) -> tuple[str, str]:
    numbers = [draw.randint(0, 99) for _ in range(draw.randint(2, 5))]
    return f"Sort: {' '.join(map(str, numbers))}", " ".join(map(str, sorted(numbers)))


def _object(draw: random.Random) -> tuple[str, str]:
    name, city, age = draw.choice(_NAMES), draw.choice(_CITIES), draw.randint(18, 90)
    reply = json.dumps({"name": name, "age": age, "city": city})
    return f"As JSON with name, age and city: {name} is {age} and lives in {city}.", reply


def _greeting(draw: random.Random) -> tuple[str, str]:
    name = draw.choice(_NAMES)
    return f"Hello, I am {name}.", f"Hello {name}! How can I help?"


INSTRUCTIONS: tuple[Instruction, ...] = (
    _copy,
    _upper,
    _last,
    _count,
    _sorted,
    _object,
    _greeting,
)


def _large(draw: random.Random, *, with_tool: bool) -> tuple[list[Message], list[Message]]:
    """A problem of the calculator's train split, solved with the tool or in the head."""
    while True:
        first, steps = draw_chain(draw, draw.randint(1, 3), 999, 99_999)
        question = question_text(first, steps)
        if split_of(question) == "train":
            reply = tool_conversation(steps) if with_tool else direct_answer(first, steps)
            return asked(question), reply


def _small(draw: random.Random) -> tuple[list[Message], list[Message]]:
    """A problem of the arithmetic task's train split, worked in the head."""
    while True:
        first, steps = draw_problem(draw, draw.randint(1, 4), 50, 199)
        question = question_text(first, steps)
        if not held_out(question):
            return asked(question), direct_answer(first, steps)


def _dialogue(draw: random.Random, tool_share: float, name: str) -> Example:
    tools: list[dict[str, Any]] = []
    kind = draw.random()
    if kind < 0.6:
        prompt, reply = _large(draw, with_tool=draw.random() < tool_share)
        tools = [CALCULATE]
    elif kind < 0.7:
        prompt, reply = _small(draw)
    else:
        request, text = draw.choice(INSTRUCTIONS)(draw)
        prompt = [{"role": "user", "content": request}]
        reply = [{"role": "assistant", "content": text}]
        tools = [CALCULATE] if draw.random() < 0.3 else []
    return Example(prompt, reply, columns={"tools": tools} if tools else {}, id=name)


@tasks.register
def dialogues(*, num_examples: int = 10_000, tool_share: float = 0.5, seed: int = 0) -> Task:
    """Conversations that the embedded tool model is trained on.

    Six in ten ask for a chain of large numbers (`tasks.calculator`, train split) with the tool
    `calculate` at hand. A share of them calls it for each step; the others work the steps in the
    head, which a small model cannot. One in ten is a small chain without a tool; the rest are
    short instructions: repeat, capitals, last word, count, sort, JSON, greeting. There is nothing
    to verify: the score is always 1.

    Args:
        tool_share: share of the chains of large numbers that call the tool.
    """
    if not 0 <= tool_share <= 1:
        raise ConfigError(f"dialogues: tool_share {tool_share} must be from 0 to 1")
    draw = random.Random(f"dialogues {seed} {tool_share}")
    examples = [_dialogue(draw, tool_share, f"dialogue-{i}") for i in range(num_examples)]
    return Task("dialogues", examples, lambda text, example: 1.0, lambda text: None)
