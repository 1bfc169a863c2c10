"""Numbers per sequence and per role from numbers per target."""

from __future__ import annotations

import torch

from posttrain.losses.inputs import policy_weight, sequence_inputs

SEQUENCE = torch.tensor([0, 0, 1])
PAIR = ("chosen", "rejected")


def test_sums_and_lengths() -> None:
    inputs = {"logprobs": torch.tensor([-1.0, -2.0, -4.0]), "scores": torch.tensor([1.0, 2.0, 3.0])}
    numbers = sequence_inputs(inputs, SEQUENCE, 2)
    assert numbers["logprob"].tolist() == [-3.0, -4.0]
    assert numbers["length"].tolist() == [2.0, 1.0]
    assert numbers["score"].tolist() == [2.0, 3.0]


def test_roles_of_a_pair() -> None:
    inputs = {
        "logprobs": torch.tensor([-1.0, -2.0, -4.0]),
        "ref_logprobs": torch.tensor([0.0, -1.0, -1.0]),
        "margin": torch.tensor([0.5, 0.5]),
    }
    numbers = sequence_inputs(inputs, SEQUENCE, 2, PAIR)
    assert numbers["chosen"].tolist() == [-3.0] and numbers["rejected"].tolist() == [-4.0]
    assert numbers["ref_chosen"].tolist() == [-1.0]
    assert numbers["chosen_length"].tolist() == [2.0] and numbers["margin"].tolist() == [0.5]


def test_the_longer_completion_has_a_tail() -> None:
    inputs = {"logprobs": torch.tensor([-1.0, -2.0, -4.0])}
    numbers = sequence_inputs(inputs, SEQUENCE, 2, PAIR, tail_weight=0.5)
    assert numbers["chosen"].tolist() == [-2.0] and numbers["rejected"].tolist() == [-4.0]


def test_the_weight_of_a_pair_is_that_of_both_completions() -> None:
    inputs = {
        "logprobs": torch.tensor([-1.0, -2.0, -4.0]),
        "log_collision": torch.tensor([-1.0, -1.0, -3.0]),
    }
    weight = policy_weight(inputs, SEQUENCE, 2, PAIR)
    assert torch.allclose(weight, torch.tensor([-0.5 - 1.0]).exp())
