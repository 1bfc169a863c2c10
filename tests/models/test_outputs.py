"""Outputs of a model from the hidden states that predict the targets."""

from __future__ import annotations

import torch

from posttrain.data.forest import Forest
from posttrain.models.logprobs import Head
from posttrain.models.outputs import compared, own_outputs


def test_log_probs_are_computed_where_they_are_asked_for(forest: Forest) -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(forest.num_targets, 4, generator=generator)
    rows = hidden, Head(torch.randn(53, 4, generator=generator))
    expected = torch.log_softmax(hidden @ rows[1].weight.T / 0.5, -1)
    chosen = expected.gather(1, forest.target[:, None])[:, 0]
    kept, logprobs = compared(rows, forest, 0.5, scored=True)
    assert kept is rows and logprobs is not None
    torch.testing.assert_close(logprobs, chosen)
    assert compared(rows, forest, 0.5, scored=False) == (rows, None)
    outputs = own_outputs(*rows, forest, {"logprobs", "entropy"}, 0.5)
    torch.testing.assert_close(outputs["logprobs"], chosen)
    torch.testing.assert_close(outputs["entropy"], -(expected.exp() * expected).sum(-1))
    assert outputs.keys() == {"logprobs", "correct", "entropy"}
    assert own_outputs(*rows, forest, {"logprobs"}, 0.5).keys() == {"logprobs", "correct"}
