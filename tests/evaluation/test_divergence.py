"""KL between two models: against plain logits, zero for one model, invariant to micro-batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import posttrain as pt
from posttrain.engines.torch import TorchEngine
from posttrain.errors import ConfigError
from posttrain.evaluation import divergence as module
from posttrain.evaluation.divergence import divergence
from posttrain.models.language_model import LanguageModel
from posttrain.types import Request, Sampling

PROMPTS = [(5, 6, 7), (9, 8), (11, 12, 13, 14, 15)]


def models() -> tuple[LanguageModel, LanguageModel]:
    start, trained = pt.load("embedded"), pt.load("embedded")
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in trained.hf.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return start, trained


def plain(model: LanguageModel, ids: list[int], temperature: float) -> torch.Tensor:
    with torch.no_grad():
        logits = model.hf(input_ids=torch.tensor([ids])).logits[0].double()
    return torch.log_softmax(logits / temperature, -1)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_it_is_that_of_plain_logits(temperature: float) -> None:
    start, trained = models()
    sampling = Sampling(max_tokens=6, temperature=temperature)
    result = divergence(start, trained, PROMPTS, sampling, seed=3)
    for writer, interval, forward in (
        (start, result.forward, True),
        (trained, result.reverse, False),
    ):
        requests = [Request(p, sampling, seed=3 + i) for i, p in enumerate(PROMPTS)]
        total, count, sums = 0.0, 0, []
        for prompt, (sample,) in zip(PROMPTS, TorchEngine(writer).generate(requests), strict=True):
            ids = [*prompt, *sample.ids]
            a, b = plain(start, ids, temperature), plain(trained, ids, temperature)
            p, q = (a, b) if forward else (b, a)
            kl = (p.exp() * (p - q)).sum(-1)[len(prompt) - 1 : len(ids) - 1]
            total, count = total + float(kl.sum()), count + len(kl)
            sums.append(float(kl.sum()))
        assert interval.estimate == pytest.approx(total / count, rel=1e-4)
        assert interval.low <= interval.estimate <= interval.high
    assert result.per_completion.estimate == pytest.approx(float(np.mean(sums)), rel=1e-4)


def test_a_model_does_not_differ_from_itself() -> None:
    model = pt.load("embedded")
    result = divergence(model, model, PROMPTS, Sampling(max_tokens=5))
    assert abs(result.forward.estimate) < 1e-6
    assert abs(result.reverse.estimate) < 1e-6


def test_micro_batches_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    start, trained = models()
    whole = divergence(start, trained, PROMPTS, Sampling(max_tokens=5))
    monkeypatch.setattr(module, "MAX_TOKENS", 8)
    parts = divergence(start, trained, PROMPTS, Sampling(max_tokens=5))
    assert parts.forward.estimate == pytest.approx(whole.forward.estimate, rel=1e-4)


def test_nothing_to_measure_is_refused() -> None:
    model = pt.load("embedded")
    with pytest.raises(ConfigError):
        divergence(model, model, [], Sampling(max_tokens=5))
    with pytest.raises(ConfigError):
        divergence(model, model, PROMPTS, Sampling(max_tokens=5, temperature=0))
