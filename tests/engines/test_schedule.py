"""Which rows decode side by side, by a stepper that writes down what it is asked."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from posttrain.engines.schedule import Row, Schedule
from posttrain.engines.stops import Stops
from posttrain.types import Sampling

VOCABULARY = 7


class Counting:
    """Every row's next token is its newest plus one; a prompt (n,) begins with n + 1."""

    def __init__(self) -> None:
        self.joined: list[list[tuple[int, ...]]] = []
        self.largest = self._rows = 0

    def join(self, prompts: Sequence[tuple[int, ...]], capacity: Sequence[int]) -> Tensor:
        self.joined.append(list(prompts))
        self._rows += len(prompts)
        self.largest = max(self.largest, self._rows)
        return self._logits(torch.tensor([p[-1] for p in prompts]))

    def step(self, tokens: Tensor) -> Tensor:
        assert len(tokens) == self._rows
        return self._logits(tokens)

    def keep(self, rows: Tensor) -> None:
        self._rows = len(rows)

    def _logits(self, tokens: Tensor) -> Tensor:
        logits = torch.full((len(tokens), VOCABULARY), -30.0)
        return logits.scatter_(1, ((tokens + 1) % VOCABULARY)[:, None], 30.0)


def run(limits: list[int], **bounds: int) -> tuple[Counting, Schedule, list[list[int]]]:
    settings = Sampling(temperature=1.0, max_tokens=9)
    rows = [Row(i, 0, (i % 3,), settings, i, limit) for i, limit in enumerate(limits)]
    device = torch.device("cpu")
    stops = Stops([settings] * len(rows), frozenset({6}), None, list, VOCABULARY, device)
    stepper = Counting()
    schedule = Schedule(
        stepper, rows, stops, device, **{"max_rows": 9, "max_kv_tokens": 999} | bounds
    )
    return stepper, schedule, [sample.ids for sample in schedule.run(0)]


def test_rows_end_at_a_stop_or_at_their_limit() -> None:
    _, schedule, texts = run([9, 2, 9, 1])
    assert texts == [[1, 2, 3, 4, 5, 6], [2, 3], [3, 4, 5, 6], [1]]
    assert schedule.decoded_tokens == 13


def test_few_rows_at_once_give_the_same_texts_in_order() -> None:
    _, _, together = run([9, 2, 9, 1, 5])
    stepper, _, texts = run([9, 2, 9, 1, 5], max_rows=2)
    assert texts == together and stepper.largest == 2
    assert [p for joined in stepper.joined for p in joined] == [(0,), (1,), (2,), (0,), (1,)]


def test_memory_of_keys_bounds_the_rows_but_one_always_runs() -> None:
    stepper, _, texts = run([9, 9, 9], max_kv_tokens=1)
    assert stepper.largest == 1 and [len(t) for t in texts] == [6, 5, 4]
