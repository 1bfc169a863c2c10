"""What a reward is called with: copies, so that nothing it does to them reaches the training."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from posttrain.errors import RewardError
from posttrain.types import Example, Task, Text, Trace

Pairs = Sequence[tuple[Example, Trace]]

_IMMUTABLE = (str, bytes, int, float, complex, bool, type(None))


def copied(value: Any) -> Any:
    """A value that shares nothing mutable with the original; what cannot be copied is passed on."""
    if isinstance(value, _IMMUTABLE):
        return value
    if type(value) is list:
        return [copied(v) for v in value]
    if type(value) is dict:
        return {k: copied(v) for k, v in value.items()}
    if type(value) is tuple:
        return tuple(copied(v) for v in value)
    try:
        return copy.deepcopy(value)
    except Exception:  # a file, a lock, an object of a library that refuses: there is no copy
        return value


def copied_example(example: Example) -> Example:
    """An example whose messages, answer and columns are copies."""
    return replace(
        example,
        prompt=copied(example.prompt),
        completion=copied(example.completion),
        answer=copied(example.answer),
        columns={k: copied(v) for k, v in example.columns.items()},
    )


class CopiedExamples(Sequence[Example]):
    """The examples of a task, each copied when it is read: a task may have a million of them."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._examples = examples

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, place: Any) -> Any:
        chosen = self._examples[place]
        if isinstance(place, slice):
            return [copied_example(e) for e in chosen]
        return copied_example(chosen)

    def __iter__(self) -> Iterator[Example]:
        return (copied_example(e) for e in self._examples)


def as_completion(prompt: Text, text: str) -> Text:
    """Text for text prompts, one assistant message for chat prompts, as TRL's rewards expect."""
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]


def reward_inputs(
    function: Callable[..., Any], pairs: Pairs, task: Task | None = None, *, name: str = ""
) -> dict[str, Any]:
    """The arguments that a reward asks for by name, one value for each completion.

    Raises:
        RewardError: a parameter without a default is neither an input nor a column of the data.
        DataError: it asks for token ids of completions of which only the text is known.
    """
    inputs: dict[str, Callable[[], Any]] = {
        "prompts": lambda: [copied(e.prompt) for e, _ in pairs],
        "completions": lambda: [as_completion(e.prompt, r.text) for e, r in pairs],
        "completion_ids": lambda: [list(r.sample.ids) for _, r in pairs],
        "answer": lambda: [copied(e.answer) for e, _ in pairs],
        "examples": lambda: [copied_example(e) for e, _ in pairs],
        "task": lambda: task and replace(task, examples=CopiedExamples(task.examples)),
        "trainer_state": lambda: None,
        "log_extra": lambda: _ignored,
        "log_metric": lambda: _ignored,
    }
    columns = {name for e, _ in pairs for name in e.columns} - inputs.keys()
    parameters = inspect.signature(function).parameters.values()
    named = {p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD}
    requested = set(named)
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        requested |= columns | inputs.keys() - {"task", "examples"}
        if "completion_ids" not in named and not all(r.has_tokens for _, r in pairs):
            requested.discard("completion_ids")
    for p in parameters:
        lacks = p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty
        if lacks and p.name not in inputs and p.name not in columns:
            names = ", ".join(sorted(columns | inputs.keys()))
            raise RewardError(
                f"reward {name or getattr(function, '__name__', '')!r} asks for {p.name!r}, which "
                f"is neither an input nor a column of the data; there are {names}"
            )
    settings = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    values = {name: make() for name, make in inputs.items() if name in requested - settings}
    for name in sorted(columns & requested - settings):
        values[name] = [_column(e.columns, name) for e, _ in pairs]
    return values


def _column(columns: Mapping[str, Any], name: str) -> Any:
    return copied(columns.get(name))


def _ignored(*args: Any, **kwargs: Any) -> None:
    """TRL's log_extra and log_metric, which rewards may call: nothing is logged."""
