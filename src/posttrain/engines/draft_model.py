"""Drafts by a smaller model of the same vocabulary."""

from __future__ import annotations

from collections.abc import Sequence

from posttrain.engines.drafts import Ids
from posttrain.engines.torch import TorchEngine
from posttrain.models.language_model import LanguageModel
from posttrain.types import Request, Sampling


class DraftModel:
    """The likeliest tokens of another model, a `Drafter`. Its engine holds what it has computed, so
    that a draft computes only what is new in a text.

    engine = TorchEngine(model, speculation=Speculation(DraftModel(small), num_tokens=4))
    """

    def __init__(self, model: LanguageModel) -> None:
        self.engine = TorchEngine(model)

    def __call__(self, texts: Sequence[Ids], lengths: Sequence[int]) -> list[list[int]]:
        """See `Drafter`. Texts that fill the model's context get no draft."""
        context = self.engine.context_length
        drafts: list[list[int]] = [[] for _ in texts]
        asked = [
            i
            for i, (text, length) in enumerate(zip(texts, lengths, strict=True))
            if length >= 1 and (context is None or len(text) < context)
        ]
        requests = [
            Request(texts[i], Sampling(max_tokens=lengths[i], temperature=0.0)) for i in asked
        ]
        for i, (sample,) in zip(asked, self.engine.generate(requests), strict=True):
            drafts[i] = sample.ids
        return drafts
