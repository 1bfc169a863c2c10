"""Nats and ranks of held-out text against plain logits, at any size of a forward pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import posttrain as pt
from posttrain.data.forest import TokenSequence
from posttrain.evaluation.next_token import next_token, rank


def test_rank_by_hand() -> None:
    logprobs = torch.log(torch.tensor([[0.2, 0.5, 0.3], [0.4, 0.4, 0.2]]))
    assert rank(logprobs, torch.tensor([0, 1])).tolist() == [3, 1]


@pytest.mark.parametrize("max_tokens", [8, 2048])
def test_it_is_that_of_plain_logits(max_tokens: int) -> None:
    model = pt.load("embedded")
    draw = np.random.default_rng(0)
    sequences = []
    for size in (3, 12, 7):
        mask = draw.random(size) < 0.7
        mask[0], mask[1] = False, True
        sequences.append(TokenSequence(draw.integers(3, 60, size), mask, row=str(size)))
    nats, ranks = [], []
    for sequence in sequences:
        ids = torch.tensor([sequence.ids.tolist()])
        with torch.no_grad():
            logits = model.hf(input_ids=ids).logits[0].double()
        logprobs = torch.log_softmax(logits, -1)
        for place in np.flatnonzero(sequence.loss_mask).tolist():
            row, own = logprobs[place - 1], int(sequence.ids[place])
            nats.append(-float(row[own]))
            ranks.append(1 + int((row > row[own]).sum()))
    result = next_token(model, sequences, max_tokens=max_tokens)
    assert result.num_tokens == len(nats)
    assert result.nats == pytest.approx(np.mean(nats), rel=1e-5)
    assert result.rank == pytest.approx(np.mean(ranks))
