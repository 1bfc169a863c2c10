"""The forgetting ledger of real trainings on the embedded model."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

import posttrain as pt
from posttrain.errors import ConfigError, DataError
from posttrain.evaluation.forgetting import read_forgetting
from posttrain.tasks.arithmetic import arithmetic
from posttrain.tasks.sorting import sorting

SUMS = arithmetic(num_steps=2, num_examples=40, split="test")
TEXTS = [{"text": example.prompt + str(example.completion)} for example in SUMS.examples[:12]]


def test_a_training_on_other_rows_loses_the_old_ability(tmp_path: Path) -> None:
    rows = [
        {"prompt": example.prompt, "completion": " ".join("9" * 5)}
        for example in sorting(num_examples=32).examples
    ]
    trained = pt.load("embedded")
    pt.fit(trained, pt.sft(rows, learning_rate=3e-3, batch_size=8), steps=12)
    ledger = pt.forgetting(
        "embedded",
        trained,
        old=[SUMS],
        rows={"worked": TEXTS},
        new=sorting(num_examples=10),
        num_prompts=8,
        output=tmp_path / "ledger.json",
    )
    sums, worked = ledger.old
    assert (sums.unit, worked.unit) == ("accuracy", "nats")
    assert sums.loss > 0.1 and sums.lost is not None and sums.lost > 4
    assert worked.loss > 0.1
    assert ledger.kl is not None and ledger.kl.forward.estimate > 0.05
    assert read_forgetting(tmp_path / "ledger.json") == ledger
    assert ledger.before == "embedded"


def test_a_model_forgets_nothing_against_itself() -> None:
    model = pt.load("embedded")
    ledger = pt.forgetting(model, model, old=[SUMS], rows={"worked": TEXTS}, num_examples=20)
    assert [change.difference.estimate for change in ledger.old] == [0.0, 0.0]
    assert (ledger.old[0].lost, ledger.old[0].gained) == (0, 0)
    assert ledger.kl is None and ledger.new == []
    assert ledger.p_values() == [1.0, 1.0]


def test_the_likelihood_is_that_of_transformers() -> None:
    import torch

    model = pt.load("embedded")
    ledger = pt.forgetting(model, model, rows={"worked": TEXTS})
    total, count = 0.0, 0
    for row in TEXTS:
        ids = model.tokenizer(row["text"])["input_ids"]
        ids = [*ids, model.tokenizer.eos_token_id]
        bos = model.tokenizer.bos_token_id
        ids = ids if bos is None or ids[0] == bos else [bos, *ids]
        with torch.no_grad():
            logits = model.hf(input_ids=torch.tensor([ids])).logits[0].double()
        logprobs = torch.log_softmax(logits, -1)
        total -= float(sum(logprobs[t, ids[t + 1]] for t in range(len(ids) - 1)))
        count += len(ids) - 1
    assert math.isclose(ledger.old[0].before, total / count, rel_tol=1e-4)


def test_wrong_calls_are_refused_before_weights(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        pt.forgetting("embedded", "embedded")
    with pytest.raises(ConfigError):
        pt.forgetting("embedded", "embedded", old=[SUMS, SUMS])
    with pytest.raises(DataError):
        pt.forgetting("embedded", "embedded", rows={"none": str(tmp_path / "none.jsonl")})
