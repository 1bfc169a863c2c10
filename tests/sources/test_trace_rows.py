"""Traces as rows of SFT and DPO: what was sampled is what is trained."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

import posttrain as pt
from posttrain.data.comparisons import encode_pairs
from posttrain.data.conversations import encode_messages
from posttrain.data.forest import TokenSequence
from posttrain.episodes.agent import Agent
from posttrain.episodes.drive import drive
from posttrain.model_config import model_location
from posttrain.sources.trace_sequences import trace_sequences
from posttrain.tasks.calculator import CALCULATE, Calculator, calculator
from posttrain.types import Request, Sample, Sampling, Trace

CALL = (
    '<tool_call>{"name": "calculate", "arguments": {"a": 12, "operator": "*", "b": 3}}</tool_call>'
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(model_location("embedded-tools"))


class Scripted:
    """Writes the given texts, one a request."""

    def __init__(self, tokenizer: Any, texts: list[str]) -> None:
        self.texts = iter(texts)
        self.tokenizer = tokenizer

    def generate(self, requests: list[Request]) -> list[list[Sample]]:
        return [[self._sample()] for _ in requests]

    def _sample(self) -> Sample:
        ids = self.tokenizer.encode(next(self.texts) + "<|end|>", add_special_tokens=False)
        return Sample(ids, [-0.5] * len(ids), [-0.5] * len(ids), "stop")


def played(tokenizer: Any, *texts: str) -> Trace:
    """An episode on the first problem, with the calculator."""
    engine: Any = Scripted(tokenizer, list(texts))
    agent = Agent(tokenizer, Calculator)
    example = calculator(num_examples=1).examples[0]
    (trace,) = drive([lambda ask: agent(example, ask)], engine, sampling=Sampling(max_tokens=200))
    assert isinstance(trace, Trace) and trace.error is None, trace
    return trace


def same_as_sampled(sequence: TokenSequence, trace: Trace) -> None:
    """The sequence is that of the trace; the rendering has a line feed behind the last turn."""
    (own,) = trace_sequences(trace)
    length = len(own.ids)
    assert np.array_equal(sequence.ids[:length], own.ids)
    assert np.array_equal(sequence.loss_mask[:length], own.loss_mask)
    assert not sequence.loss_mask[length:].any()


def test_sft_on_the_messages_of_a_trace_trains_its_sampled_tokens(tokenizer: Any) -> None:
    trace = played(tokenizer, CALL, "#### 36")
    assert [m["role"] for m in trace.messages] == ["user", "assistant", "tool", "assistant"]
    same_as_sampled(encode_messages(tokenizer, trace.messages, tools=[CALCULATE]), trace)


def test_dpo_on_two_traces_of_a_prompt(tokenizer: Any) -> None:
    right, wrong = played(tokenizer, CALL, "#### 36"), played(tokenizer, "#### 35")
    row = {
        "prompt": right.messages[:1],
        "chosen": right.messages[1:],
        "rejected": wrong.messages[1:],
        "tools": [CALCULATE],
    }
    (pair,) = encode_pairs([row], tokenizer).groups
    same_as_sampled(pair[0], right)
    same_as_sampled(pair[1], wrong)
    result = pt.fit(pt.load("embedded-tools"), pt.dpo([row] * 2, batch_size=2), steps=1)
    assert result.metrics[-1]["rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert result.metrics[-1]["grad_norm"] > 0
