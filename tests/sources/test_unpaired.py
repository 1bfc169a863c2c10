"""Single completions with what is measured before a step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from posttrain.data.comparisons import encode_labelled
from posttrain.models.load import load_model
from posttrain.sources.unpaired import UnpairedSource, mismatched

ROWS = [
    {
        "prompt": f"Q: {a}+{b}\nA:",
        "completion": f" {a + b + (a + b) % 2}",
        "label": (a + b) % 2 == 0,
    }
    for a in range(6)
    for b in range(4)
]


def test_what_is_measured_before_a_step(tiny_folder: Path) -> None:
    """kl is the mean log-ratio of mismatched completions, from plain forward passes; shift lies
    between the kinds' means.
    """
    model = load_model(str(tiny_folder), dtype="float32", reference=True)
    with torch.no_grad():
        for p in model.hf.parameters():
            p.mul_(1.1)
    sequences = encode_labelled(ROWS[:6], model.tokenizer).sequences
    partners = mismatched(sequences, seed=0, max_length=64)
    options: dict[str, Any] = {"model": model, "batch_size": 6, "seed": 0, "max_tokens": 40}
    source = UnpairedSource(sequences, partners, wanted={"kl", "shift", "logprobs"}, **options)

    def ratio(sequence: Any) -> float:
        ids = torch.tensor(sequence.ids)[None]
        places = np.flatnonzero(sequence.loss_mask)
        sums = []
        for hf in (model.hf, model._frozen.hf):
            with torch.no_grad():
                logp = hf(ids).logits[0].double().log_softmax(-1)
            sums.append(sum(float(logp[i - 1, sequence.ids[i]]) for i in places))
        return sums[0] - sums[1]

    (batch,) = source.batches(0)
    values = batch.trees[0].sequences[0].values
    assert values["kl"] == pytest.approx(
        max(np.mean([ratio(partners[id(s)]) for s in sequences]), 0), abs=1e-4
    )
    means = [
        np.mean([ratio(s) for s in sequences if s.values["label"] == label]) for label in (0, 1)
    ]
    assert values["shift"] == pytest.approx(np.mean(means), abs=1e-4)
    for s in sequences:
        start = int(np.argmax(s.loss_mask))
        other = partners[id(s)]
        assert (
            np.array_equal(other.ids[:start], s.ids[:start]) and not other.loss_mask[:start].any()
        )
        assert any(
            np.array_equal(other.ids[start:], o.ids[int(np.argmax(o.loss_mask)) :])
            for o in sequences
            if o is not s
        )
    # The order of rows and of micro-batches does not matter, and a log-ratio below 0 on average
    # counts as none.
    again = UnpairedSource(sequences, partners, wanted={"kl"}, **{**options, "max_tokens": 4000})
    kl = again.measured([[s] for s in sequences[::-1]]).trees[0].sequences[0].values["kl"]
    assert kl == pytest.approx(values["kl"], abs=1e-5)
