"""Paths of steps: what searches that grow a completion step by step share.

A step ends at a separator, which is a stop string. A path is whole when it ended by itself and not
at the separator.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from posttrain.errors import ConfigError
from posttrain.search.ask import path_room
from posttrain.search.base import Candidate, Ids, Selection, select
from posttrain.search.scores import best_place, number_of
from posttrain.search.vote import vote


def is_ended(path: Candidate, separator: str | None) -> bool:
    """Whether a path of steps is a whole completion: it ended by itself, not at the separator.

    separator: None where no separator is a stop string of its own.
    """
    return path.ended and (separator is None or path.stop_string != separator)


def is_done(path: Candidate, ask: Any, separator: str | None) -> bool:
    """Whether a path cannot go on: it has ended, was cut, or has no room for another token."""
    if not path.steps:
        return False
    between = separator is not None and path.stop_string == separator
    return not between or path_room(ask, path.ids) < 1


def last_state(prompt: Ids, path: Candidate, separator: str | None) -> Ids:
    """The last state of a path in which a token was chosen: of a whole one, before its end."""
    ids = path.ids[:-1] if is_ended(path, separator) else path.ids
    return (*prompt, *ids)


@dataclass(frozen=True, slots=True)
class Steps:
    """Grows paths of one prompt by steps, with at most `max_steps` of them.

    The last step has no separator, so that a path that is long in steps still comes to an end. A
    separator that ends whole completions too (`ask.sampling.stop`) leaves one step.

    Raises:
        ConfigError: an empty separator, or less than one step.
    """

    search: str
    prompt: Ids
    ask: Any
    decode: Callable[[Ids], str]
    separator: str
    max_steps: int

    def __post_init__(self) -> None:
        if not self.separator:
            raise ConfigError(f"{self.search}: separator is empty; give the text that ends a step")
        at_least(self.search, max_steps=self.max_steps)

    @property
    def root(self) -> Candidate:
        """The path without steps."""
        return Candidate((), "", 0.0, False, context_ids=self.prompt)

    @property
    def mark(self) -> str | None:
        """The separator where it is no end of whole completions."""
        return None if self.separator in self.ask.sampling.stop else self.separator

    def is_ended(self, path: Candidate) -> bool:
        """Whether a path is a whole completion."""
        return is_ended(path, self.mark)

    def is_done(self, path: Candidate) -> bool:
        """Whether a path cannot go on."""
        return is_done(path, self.ask, self.mark)

    def state(self, path: Candidate) -> Ids:
        """See `last_state`."""
        return last_state(self.prompt, path, self.mark)

    async def continued(
        self,
        path: Candidate,
        n: int = 1,
        *,
        whole: bool = False,
        temperature: float | None = None,
    ) -> list[Candidate]:
        """n continuations of a path: by a step, or to the end.

        whole: to the end, without steps; so is the last step that `max_steps` allows.
        """
        last = whole or len(path.steps) + 1 >= self.max_steps
        stop = () if last or self.mark is None else (self.mark,)
        parts = await self.ask(
            (*self.prompt, *path.ids),
            n,
            stop=stop,
            max_tokens=path_room(self.ask, path.ids),
            temperature=temperature,
        )
        return [path.grown(part, self.decode) for part in parts]

    async def grown(
        self, paths: Sequence[Candidate], counts: Sequence[int]
    ) -> list[list[Candidate]]:
        """The continuations of each path by a step, all sampled side by side."""
        pairs = zip(paths, counts, strict=True)
        return list(await asyncio.gather(*(self.continued(path, n) for path, n in pairs)))

    async def ahead(self, paths: Sequence[Candidate], num_steps: int) -> list[Candidate]:
        """Paths with up to num_steps greedy steps behind them."""
        paths = list(paths)
        for _ in range(num_steps):
            places = [i for i, path in enumerate(paths) if not self.is_done(path)]
            if not places or self.ask.budget.is_spent:
                break
            longer = await asyncio.gather(
                *(self.continued(paths[i], temperature=0.0) for i in places)
            )
            for i, (path,) in zip(places, longer, strict=True):
                paths[i] = path
        return paths

    async def scored(
        self, paths: Sequence[Candidate], score: Any, lookahead: int = 0
    ) -> list[Candidate]:
        """Paths with their scores; with lookahead, the scores of the paths that go on greedily."""
        seen = await self.ahead(paths, lookahead) if lookahead else list(paths)
        numbers = await score(seen)
        return [path.scored(number) for path, number in zip(paths, numbers, strict=True)]

    def chosen(
        self,
        paths: list[Candidate],
        extract: Callable[[str], str | None],
        choose: str,
        **notes: float,
    ) -> Selection:
        """A selection among paths; whole ones come before those that were cut.

        Its candidates have `ended` where they are whole completions, not at a separator.

        choose: "best" by the score, "vote" by the number of paths with an answer, "weighted_vote"
        by the sum of their scores.
        """
        whole = [self.is_ended(path) for path in paths]
        # Rows, grades and counts of cut-off samples read `ended`, and know no separator.
        paths = [replace(p, ended=ended) for p, ended in zip(paths, whole, strict=True)]
        counted = [ended or not any(whole) for ended in whole]
        notes = {"num_whole": float(sum(whole)), **notes}
        if choose == "best":
            return select(paths, best_place(paths, counted), extract, None, **notes)
        weights = [
            (1.0 if choose == "vote" else number_of(path)) if counts else -math.inf
            for path, counts in zip(paths, counted, strict=True)
        ]
        return vote(paths, weights, extract, **notes)


def distinct_texts(paths: Iterable[Candidate]) -> list[Candidate]:
    """The first path of each text; a text that has ended differs from one that goes on."""
    first: dict[tuple[str, bool, str | None], Candidate] = {}
    for path in paths:
        first.setdefault((path.text, path.ended, path.stop_string), path)
    return list(first.values())


def shares(total: int, parts: int) -> list[int]:
    """A total in nearly equal whole parts, the larger ones first."""
    return [total // parts + (place < total % parts) for place in range(parts)]


def at_least(search: str, least: int = 1, **settings: int) -> None:
    """Refuse whole numbers of settings that are too small.

    Raises:
        ConfigError: names the setting.
    """
    for name, value in settings.items():
        if value < least:
            raise ConfigError(f"{search}: {name} is {value}; it must be at least {least}")
