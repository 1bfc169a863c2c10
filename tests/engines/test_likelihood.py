from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from posttrain.engines.likelihood import likelihoods
from posttrain.models.language_model import LanguageModel

Build = Callable[[str], LanguageModel]
SEQUENCES = [(3, 4, 5, 6, 7), (3, 4, 5, 9), (3, 4, 5, 6, 7), (11, 2)]


@pytest.mark.parametrize("kind", ["llama", "gemma2", "mamba"])
@pytest.mark.parametrize("max_tokens", [4096, 6])
def test_they_are_those_of_a_plain_forward(decoder: Build, kind: str, max_tokens: int) -> None:
    model = decoder(kind)
    scored = likelihoods(model, SEQUENCES, num_top=3, max_tokens=max_tokens)
    for ids, tokens in zip(SEQUENCES, scored, strict=True):
        with torch.no_grad():
            logits = model.hf(torch.tensor([ids])).logits[0, :-1]
        logprobs = logits.float().log_softmax(-1)
        assert len(tokens) == len(ids) - 1
        for token, row, target in zip(tokens, logprobs, ids[1:], strict=True):
            assert token.logprob == pytest.approx(float(row[target]), abs=1e-4)
            top = row.topk(3)
            assert [i for i, _ in token.top] == top.indices.tolist()
            assert [v for _, v in token.top] == pytest.approx(top.values.tolist(), abs=1e-4)


def test_no_alternatives_unless_asked_for(decoder: Build) -> None:
    (tokens,) = likelihoods(decoder("llama"), [(3, 4, 5)])
    assert [t.top for t in tokens] == [(), ()]
    assert likelihoods(decoder("llama"), []) == []
    assert likelihoods(decoder("llama"), [(3,), (3, 4)])[0] == []
