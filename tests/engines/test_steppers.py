"""Weights that change under open requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from decoders import changed

from posttrain.engines.drafts import PromptLookup
from posttrain.engines.speculation import Speculation
from posttrain.engines.torch import TorchEngine
from posttrain.models.language_model import LanguageModel
from posttrain.types import Request, Sample, Sampling

Build = Callable[[str], LanguageModel]
PROMPTS = [tuple(range(3, 20)), (5, 6, 7)]
LENGTH, FIRST = 14, 5  # tokens of a sample, and those of the older weights


def greedy(prompt: tuple[int, ...], n: int = 1) -> Request:
    return Request(prompt, Sampling(max_tokens=LENGTH, temperature=0.0), n=n)


def updated_in_flight(engine: TorchEngine, requests: list[Request]) -> list[list[Sample]]:
    """The samples of requests during which the weights change."""
    tickets = [engine.submit(request) for request in requests]
    for _ in range(FIRST):
        assert engine.step() == []
    changed(engine.model)
    engine.sync(1)
    done: dict[int, list[Sample]] = {}
    while engine.num_open:
        done |= {finished.ticket: finished.samples for finished in engine.step()}
    return [done[ticket] for ticket in tickets]


def by_the_models_own_cache(build: Build, name: str, prompt: tuple[int, ...]) -> list[int]:
    """The same by transformers: the newest token's keys are the first of the newer weights."""
    model = build(name)
    ids: list[int] = []
    state: dict[str, Any] = {}
    fed = torch.tensor([prompt])
    for number in range(LENGTH):
        if number == FIRST:
            changed(model)
        with torch.no_grad():
            out = model.pretrained(input_ids=fed, use_cache=True, **state)
        key = "cache_params" if "cache_params" in out else "past_key_values"
        state = {key: out[key]}
        ids.append(int(out.logits[0, -1].argmax()))
        fed = torch.tensor([[ids[-1]]])
    return ids


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2", "gpt2", "mamba"])
def test_requests_go_on_below_what_they_have_computed(name: str, decoder: Build) -> None:
    engine = TorchEngine(decoder(name), in_flight=True)
    groups = updated_in_flight(engine, [greedy(p, n=2) for p in PROMPTS])
    for prompt, samples in zip(PROMPTS, groups, strict=True):
        expected = by_the_models_own_cache(decoder, name, prompt)
        for sample in samples:
            assert sample.ids == expected
            assert sample.version_spans == ((0, 0, FIRST), (1, FIRST, LENGTH))
            assert sample.weights_version == 0


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_later_requests_see_nothing_of_older_weights(name: str, decoder: Build) -> None:
    """A prompt that is still decoding is computed anew for requests that come after the update."""
    engine = TorchEngine(decoder(name), in_flight=True)
    prompt = tuple(range(3, 92))  # long enough for a trunk that is held once
    engine.submit(Request(prompt, Sampling(max_tokens=LENGTH, temperature=0.0), n=2))
    engine.step()
    changed(engine.model)
    engine.sync(1)
    later = engine.submit(greedy(prompt))
    done: dict[int, list[Sample]] = {}
    while engine.num_open:
        done |= {finished.ticket: finished.samples for finished in engine.step()}
    (fresh,) = TorchEngine(engine.model).generate([greedy(prompt)])
    assert done[later][0].ids == fresh[0].ids
    assert done[later][0].raw_logprobs == pytest.approx(fresh[0].raw_logprobs, abs=1e-5)
    assert done[later][0].version_spans == () and done[later][0].weights_version == 1


def test_drafts_of_older_weights_are_forgotten(decoder: Build) -> None:
    plain = updated_in_flight(TorchEngine(decoder("llama"), in_flight=True), [greedy(PROMPTS[0])])
    drafting = TorchEngine(
        decoder("llama"), in_flight=True, speculation=Speculation(PromptLookup(), num_tokens=4)
    )
    drafted = updated_in_flight(drafting, [greedy(PROMPTS[0])])
    assert drafted[0][0].ids == plain[0][0].ids
