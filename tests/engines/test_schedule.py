"""Which rows decode side by side, by a stepper that writes down what it is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from posttrain.engines.room import Room
from posttrain.engines.schedule import Row, Schedule
from posttrain.engines.stepping import Joined
from posttrain.engines.stops import Stops
from posttrain.types import Sampling

VOCABULARY = 7


class Counting:
    """Every row's next token is its newest plus one; a prompt (n,) begins with n + 1."""

    def __init__(self) -> None:
        self.joined: list[list[tuple[int, ...]]] = []
        self.stored: list[tuple[int, ...]] = []
        self.largest = self._rows = 0

    def join(self, prompts: Sequence[tuple[int, ...]], capacity: Sequence[int]) -> Joined:
        self.joined.append(list(prompts))
        self._rows += len(prompts)
        self.largest = max(self.largest, self._rows)
        logits = self._logits(torch.tensor([p[-1] for p in prompts]))
        return Joined(logits, [len(p) for p in prompts])

    def step(self, tokens: Tensor) -> Tensor:
        assert len(tokens) == self._rows
        return self._logits(tokens)

    def keep(self, rows: Tensor) -> None:
        self._rows = len(rows)

    def store(self, texts: Mapping[int, tuple[int, ...]]) -> None:
        self.stored += texts.values()

    def _logits(self, tokens: Tensor) -> Tensor:
        logits = torch.full((len(tokens), VOCABULARY), -30.0)
        return logits.scatter_(1, ((tokens + 1) % VOCABULARY)[:, None], 30.0)


def rows(limits: list[int], *, first: int = 0) -> list[Row]:
    """A ticket per row; row i begins after token i % 3."""
    return [
        Row(i, 0, (i % 3,), Sampling(max_tokens=9), i, limit)
        for i, limit in enumerate(limits, start=first)
    ]


def schedule_of(**bounds: int) -> tuple[Counting, Schedule]:
    device = torch.device("cpu")
    stops = Stops(frozenset({6}), None, list, VOCABULARY, device)
    stepper = Counting()
    bounds = {"max_rows": 9, "max_kv_tokens": 999} | bounds
    return stepper, Schedule(stepper, stops, device, Room(**bounds))


def run(limits: list[int], **bounds: int) -> tuple[Counting, Schedule, list[list[int]]]:
    stepper, schedule = schedule_of(**bounds)
    schedule.add(rows(limits))
    texts: dict[int, list[int]] = {}
    while schedule.num_open:
        texts |= {row.ticket: sample.ids for row, sample in schedule.step(0)}
    return stepper, schedule, [texts[i] for i in range(len(limits))]


def test_rows_end_at_a_stop_or_at_their_limit() -> None:
    stepper, schedule, texts = run([9, 2, 9, 1])
    assert texts == [[1, 2, 3, 4, 5, 6], [2, 3], [3, 4, 5, 6], [1]]
    assert schedule.num_generated == 13
    assert set(stepper.stored) == {(p, *t) for p, t in zip((0, 1, 2, 0), texts, strict=True)}


def test_few_rows_at_once_give_the_same_texts_in_order() -> None:
    _, _, together = run([9, 2, 9, 1, 5])
    stepper, _, texts = run([9, 2, 9, 1, 5], max_rows=2)
    assert texts == together and stepper.largest == 2
    assert [p for joined in stepper.joined for p in joined] == [(0,), (0,), (1,), (1,), (2,)]


def test_memory_of_keys_bounds_the_rows_but_one_always_runs() -> None:
    stepper, _, texts = run([9, 9, 9], max_kv_tokens=1)
    assert stepper.largest == 1 and [len(t) for t in texts] == [6, 5, 4]


def test_rows_join_and_leave_while_others_run() -> None:
    stepper, schedule = schedule_of()
    schedule.add(rows([9, 9]))
    assert schedule.step(0) == [] and schedule.num_open == 2
    schedule.add(rows([2], first=2))
    assert schedule.step(0) == [] and len(stepper.joined) == 2  # at once, though nothing has ended
    assert schedule.newest({2}) == [(schedule._rows[2], [3], [0.0])]
    assert schedule.drop(0) == 2 and schedule.num_open == 2
    (ended,) = schedule.step(4)
    assert ended.row.ticket == 2 and ended.sample.ids == [3, 4]
    assert ended.sample.finish_reason == "length" and ended.sample.weights_version == 4
    assert stepper._rows == 2  # the dropped row has left
    while schedule.num_open:
        (*_, last) = [*schedule.step(0), None]
        ended = last or ended
    assert schedule.step(0) == []
    assert schedule.num_generated == 2 + 5 + 2


def test_a_ticket_that_waits_can_be_dropped() -> None:
    stepper, schedule = schedule_of(max_rows=1)
    schedule.add(rows([9, 9]))
    schedule.step(0)
    assert schedule.drop(1) == 0 and schedule.num_open == 1
    while schedule.num_open:
        schedule.step(0)
    assert stepper.joined == [[(0,)]]
