"""Which rows decode side by side, by a stepper that writes down what it is asked."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import posttrain as pt
from posttrain.budget import Budget
from posttrain.engines.drafts import PromptLookup
from posttrain.engines.room import Room
from posttrain.engines.schedule import Row, Schedule
from posttrain.engines.speculation import Speculation
from posttrain.engines.stepping import Joined
from posttrain.engines.stops import Stops
from posttrain.engines.torch import TorchEngine
from posttrain.types import Constraint, Request, Sample, Sampling

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
    assert ended.sample.finish_reason == "length" and ended.sample.weights_version == 0
    assert ended.sample.version_spans == ((0, 0, 1), (4, 1, 2))
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


def test_rows_report_as_many_likeliest_ids_as_each_asked_for() -> None:
    _, schedule = schedule_of()
    added = rows([2, 3, 9])
    added[0].num_top, added[1].num_top = 3, 1
    schedule.add(added)
    ended = []
    while schedule.num_open:
        ended += schedule.step(0)
    samples = {row.ticket: sample for row, sample in ended}
    assert [[len(top) for top in samples[i].top_logprobs] for i in range(3)] == [
        [3] * 2,
        [1] * 3,
        [],
    ]
    for i in (0, 1):
        assert [top[0][0] for top in samples[i].top_logprobs] == samples[i].ids


@pytest.fixture(scope="module")
def embedded() -> Any:
    """The embedded model."""
    return pt.load("embedded")


def reference(model: Any, prompt: Sequence[int], sample: Sample) -> torch.Tensor:
    """Next-token log-probs [t, V] in float64 in the places of a sample's tokens."""
    hf = copy.deepcopy(model.pretrained).double()
    with torch.no_grad():
        logits = hf(input_ids=torch.tensor([[*prompt, *sample.ids]])).logits
    return logits[0, len(prompt) - 1 : -1].log_softmax(-1)


@pytest.mark.parametrize("speculative", [False, True])
def test_likeliest_ids_are_those_of_a_forward_pass(embedded: Any, speculative: bool) -> None:
    """Several rows, truncation, temperature, a stop string, a prompt that is known in part."""
    encode = embedded.tokenizer.encode
    prompt = tuple(encode("Q: 12+30-7\nA:"))
    engine = TorchEngine(embedded, speculation=Speculation(PromptLookup()) if speculative else None)
    engine.generate([Request(prompt[:-2], Sampling(max_tokens=3))])
    asked = [
        Request(prompt, Sampling(max_tokens=9), n=3, num_top_logprobs=5),
        Request(prompt, Sampling(max_tokens=30, stop=("\n",)), n=6, seed=1, num_top_logprobs=2),
        Request(prompt, Sampling(max_tokens=9, temperature=0.5, top_k=2), num_top_logprobs=4),
        Request(prompt, Sampling(max_tokens=9), n=2, seed=2),
    ]
    groups = engine.generate(asked)
    assert engine.stats.reused_tokens > 0
    assert "\n" in {sample.stop_string for sample in groups[1]}
    for request, group in zip(asked, groups, strict=True):
        count = request.num_top_logprobs
        for sample in group:
            assert len(sample.top_logprobs) == (len(sample.ids) if count else 0)
            expected = reference(embedded, prompt, sample).topk(max(count, 1), -1)
            for place, top in enumerate(sample.top_logprobs):
                assert [i for i, _ in top] == expected.indices[place].tolist()
                assert [x for _, x in top] == pytest.approx(
                    expected.values[place].tolist(), abs=1e-4
                )
    plain = TorchEngine(embedded).generate([Request(prompt, Sampling(max_tokens=9), n=3)])
    assert [s.ids for s in plain[0]] == [s.ids for s in groups[0]]


def test_ids_that_a_constraint_forbids_are_reported_too(embedded: Any) -> None:
    """They are of the model's own distribution, as raw log-probs are."""
    pytest.importorskip("llguidance")
    prompt = tuple(embedded.tokenizer.encode("Q: 12+30\nA:"))
    request = Request(
        prompt,
        Sampling(max_tokens=4),
        constraint=Constraint.regex("[xyz]{4}"),
        num_top_logprobs=3,
    )
    ((sample,),) = TorchEngine(embedded).generate([request])
    expected = reference(embedded, prompt, sample).topk(3, -1)
    assert [[i for i, _ in top] for top in sample.top_logprobs] == expected.indices.tolist()
    assert sample.ids[0] not in expected.indices[0].tolist()


def test_rows_that_a_budget_ends_report_what_they_wrote(embedded: Any) -> None:
    prompt = tuple(embedded.tokenizer.encode("Q: 12+30\nA:"))
    budget = Budget(max_tokens=5)
    request = Request(prompt, Sampling(max_tokens=9), n=3, budget=budget, num_top_logprobs=2)
    (group,) = TorchEngine(embedded).generate([request])
    assert [len(s.top_logprobs) for s in group] == [len(s.ids) for s in group]
    assert sum(len(s.ids) for s in group) == 5
