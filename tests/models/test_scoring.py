"""Per-target numbers of many sequences, without a gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from posttrain.data.forest import TokenSequence
from posttrain.models.language_model import LanguageModel
from posttrain.models.scoring import scored

from .conftest import plain_logprobs, tiny_hf

Groups = list[list[TokenSequence]]
Make = Callable[..., LanguageModel]


@pytest.mark.parametrize("max_tokens", [1, 20, 10_000])
def test_numbers_are_those_of_plain_forwards_however_they_are_cut(
    max_tokens: int, tiny: Make, groups: Groups
) -> None:
    model = tiny("Llama")
    found = {
        s.row: numbers["logprobs"]
        for s, numbers in scored(model, groups, ("logprobs",), max_tokens=max_tokens)
    }
    sequences = [s for group in groups for s in group]
    assert found.keys() == {s.row for s in sequences}
    ours = np.concatenate([found[s.row] for s in sequences])
    expected = plain_logprobs(tiny_hf("Llama"), groups).detach().numpy()
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)


def test_each_sequence_is_given_back_itself(tiny: Make, groups: Groups) -> None:
    sequences = {id(s) for group in groups for s in group}
    given = [s for s, _ in scored(tiny("Llama"), groups, ("logprobs",), max_tokens=30)]
    assert {id(s) for s in given} == sequences and len(given) == len(sequences)


def test_a_stream_of_a_sequence_is_given_back_at_its_targets(tiny: Make) -> None:
    sequence = TokenSequence(
        np.array([3, 4, 5]), np.array([False, False, True]), {"ref_logprobs": np.array([0, 1, 7])}
    )
    ((_, numbers),) = scored(tiny("Llama"), [[sequence]], ("ref_logprobs",), max_tokens=9)
    assert numbers["ref_logprobs"].tolist() == [7.0]


def test_dropout_is_off_and_modes_and_gradients_stay(tiny: Make, groups: Groups) -> None:
    model = tiny("Llama", attention_dropout=0.5)
    model.train()

    def numbers() -> list[Any]:
        return [n["logprobs"] for _, n in scored(model, groups, ("logprobs",), max_tokens=50)]

    one, two = numbers(), numbers()
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert model.hf.training and all(p.grad is None for p in model.hf.parameters())
    assert torch.is_grad_enabled()


def test_temperature_divides_the_logits(tiny: Make, groups: Groups) -> None:
    found = scored(tiny("Llama"), [groups[2]], ("logprobs",), max_tokens=99, temperature=2.0)
    ((_, numbers),) = found
    expected = plain_logprobs(tiny_hf("Llama"), [groups[2]], 2.0).detach().numpy()
    np.testing.assert_allclose(numbers["logprobs"], expected, rtol=1e-4, atol=1e-4)


def test_nothing_to_score(tiny: Make) -> None:
    assert list(scored(tiny("Llama"), [], ("logprobs",), max_tokens=9)) == []
