"""Steppers: a column decoder has to agree with the model; rows of a cache come and go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from posttrain.engines.stepping import CacheStepper, matching_decoder
from posttrain.kernels.columns import ColumnDecoder
from posttrain.models.language_model import LanguageModel

Build = Callable[[str], LanguageModel]


def test_a_decoder_that_gives_other_states_is_not_used(
    llama_like: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = llama_like("llama")
    assert matching_decoder(model) is not None
    step = ColumnDecoder.step

    def wrong(self: ColumnDecoder, *args: Any) -> torch.Tensor:
        return step(self, *args) * 1.01

    monkeypatch.setattr(ColumnDecoder, "step", wrong)
    assert matching_decoder(model) is None


def test_rows_of_a_cache_keep_their_order_when_others_leave(decoder: Build) -> None:
    model = decoder("llama")
    counts: list[int] = []
    stepper = CacheStepper(model, counts.append)
    with torch.no_grad():
        stepper.join([(3, 4, 5), (3, 4, 5), (7, 8)], [9, 9, 9])
        assert counts == [6, 2]
        before = stepper.step(torch.tensor([10, 11, 12]))
        stepper.keep(torch.tensor([1, 2]))
        logits = stepper.step(torch.tensor([13, 14]))
        expected = [
            model.pretrained(input_ids=torch.tensor([ids])).logits[0, -1]
            for ids in ([3, 4, 5, 11, 13], [7, 8, 12, 14])
        ]
    assert before.shape == (3, 97)
    torch.testing.assert_close(logits, torch.stack(expected), rtol=1e-4, atol=1e-4)
