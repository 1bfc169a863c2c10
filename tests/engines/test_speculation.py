"""Speculative decoding writes what plain decoding writes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import pytest
import torch
from decoders import with_lora

from posttrain.engines.drafts import Drafter, PromptLookup
from posttrain.engines.speculation import Speculation
from posttrain.engines.torch import TorchEngine
from posttrain.errors import ConfigError
from posttrain.models.language_model import LanguageModel
from posttrain.types import Request, Sample, Sampling

Build = Callable[[str], LanguageModel]
PROMPTS = [(3, 4, 5, 3, 4, 5, 3), tuple(range(20, 40)), (5,)]


class Oracle:
    """Knows what plain decoding writes, and is wrong at every `wrong`-th place."""

    def __init__(self, groups: Sequence[Sequence[Sample]], wrong: int) -> None:
        self.texts = [(*p, *s.ids) for p, group in zip(PROMPTS, groups, strict=True) for s in group]
        self.wrong = wrong

    def __call__(self, texts: Sequence[tuple[int, ...]], lengths: Sequence[int]) -> list[list[int]]:
        drafts = []
        for text, length in zip(texts, lengths, strict=True):
            whole = next(t for t in self.texts if t[: len(text)] == text)
            places = range(len(text), min(len(text) + length, len(whole)))
            drafts.append([(whole[i] + (i % self.wrong == 0)) % 97 for i in places])
        return drafts


def wanted(temperature: float) -> list[Request]:
    sampling = Sampling(max_tokens=20, temperature=temperature, stop_ids=(11, 12))
    return [Request(p, sampling, n=3, seed=i) for i, p in enumerate(PROMPTS)]


def ids(groups: list[list[Sample]]) -> list[list[list[int]]]:
    return [[s.ids for s in group] for group in groups]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma2", "gpt2", "lora"])
def test_samples_are_those_of_plain_decoding(decoder: Build, kind: str, temperature: float) -> None:
    model = with_lora(decoder) if kind == "lora" else decoder(kind)
    model.hf.double()
    model.share_trunks()
    plain = TorchEngine(model).generate(wanted(temperature))
    drafters: list[Drafter] = [PromptLookup(), Oracle(plain, wrong=5), Oracle(plain, wrong=99)]
    for drafter in drafters:
        speculation = Speculation(drafter, num_tokens=4)
        engine = TorchEngine(model, max_rows=5, speculation=speculation)
        found = engine.generate(wanted(temperature))
        assert ids(found) == ids(plain)
        for ours, theirs in zip(itertools.chain(*found), itertools.chain(*plain), strict=True):
            assert ours.raw_logprobs == pytest.approx(theirs.raw_logprobs, abs=1e-5)
        stats = engine.stats
        assert stats.prompt_tokens == stats.computed_tokens + stats.reused_tokens
        assert stats.generated_tokens == stats.returned_tokens
    assert speculation.num_accepted > 0.7 * speculation.num_drafted > 0
    # What rows wrote begins later prompts, as always.
    text = (*PROMPTS[1], *found[1][0].ids)
    engine.submit(Request((*text, 8), Sampling(max_tokens=1)))
    (turn,) = engine.step()
    assert turn.reused_tokens == len(text) - 1
    expected = TorchEngine(model).generate([Request((*text, 8), Sampling(max_tokens=1))])
    assert turn.samples[0].raw_logprobs == pytest.approx(expected[0][0].raw_logprobs, abs=1e-5)


def test_the_distribution_is_kept(decoder: Build) -> None:
    """Pairs of tokens in 10 classes, against their probabilities under the model."""
    model = decoder("llama")
    prompt, count = (3, 4, 5, 3, 4), 4000
    with torch.no_grad():
        first = model.pretrained(input_ids=torch.tensor([prompt])).logits[0, -1].softmax(-1)
        texts = torch.tensor([[*prompt, t] for t in range(97)])
        second = model.pretrained(input_ids=texts).logits[:, -1].softmax(-1)
    classes = (torch.arange(97)[:, None] + 3 * torch.arange(97)) % 10
    weights = first[:, None] * second
    expected = torch.zeros(10).scatter_add_(0, classes.flatten(), weights.flatten()) * count
    engine = TorchEngine(model, max_rows=1000, speculation=Speculation(PromptLookup()))
    (samples,) = engine.generate([Request(prompt, Sampling(max_tokens=2), n=count, seed=7)])
    pairs = torch.tensor([s.ids for s in samples])
    found = torch.bincount(classes[pairs[:, 0], pairs[:, 1]], minlength=10)
    assert float(((found - expected) ** 2 / expected).sum()) < 27.9  # 9 degrees: p = 0.001


def test_refuses(decoder: Build) -> None:
    with pytest.raises(ConfigError):
        Speculation(PromptLookup(), num_tokens=0)
    with pytest.raises(ConfigError):
        TorchEngine(decoder("mamba"), speculation=Speculation(PromptLookup()))
