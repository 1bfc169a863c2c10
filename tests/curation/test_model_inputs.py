"""What a model says of rows, against its own plain forward passes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import posttrain as pt
from posttrain.curation.model_inputs import ModelInputs
from posttrain.data.row_texts import RowTexts


def nats_of(model, ids: list[int], start: int) -> float:
    """Mean nats of ids[start:], by the model's own forward."""
    with torch.no_grad():
        logits = model.hf(torch.tensor([ids])).logits[0].float()
    logprobs = logits.log_softmax(-1)
    values = [-float(logprobs[t - 1, ids[t]]) for t in range(max(start, 1), len(ids))]
    return float(np.mean(values))


def test_nats_with_and_without_the_prompt(tiny_folder: Path) -> None:
    model = pt.load(str(tiny_folder))
    tokenizer = model.tokenizer
    rows = [{"prompt": "12 + 30 =", "completion": " 42"}, {"prompt": "1 =", "completion": " 1"}]
    found = [text for _, text in RowTexts()(rows)]
    inputs = ModelInputs(model, max_length=64)
    nats, alone = inputs.nats(found)
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    uses_bos = tokenizer("a")["input_ids"][:1] == bos and bool(bos)
    for place, row in enumerate(rows):
        before = tokenizer(row["prompt"], add_special_tokens=False)["input_ids"]
        after = tokenizer(row["completion"], add_special_tokens=False)["input_ids"]
        after = [*after, tokenizer.eos_token_id]
        start = bos if uses_bos else []
        # Without BOS nothing predicts the first token of the completion alone.
        skipped = 0 if uses_bos else 1
        with_prompt = [*start, *before, *after]
        first = len(start) + len(before) + skipped
        assert nats[place] == pytest.approx(nats_of(model, with_prompt, first), rel=1e-4)
        bare = [*start, *after]
        assert alone[place] == pytest.approx(nats_of(model, bare, len(start) + skipped), rel=1e-4)


def test_text_has_no_prompt_and_what_cannot_be_read_no_value(tiny_folder: Path) -> None:
    inputs = ModelInputs(pt.load(str(tiny_folder)), max_length=64)
    found = [text for _, text in RowTexts()([{"text": "1 + 1"}, {"text": 3}])]
    nats, alone = inputs.nats(found)
    assert np.isfinite(nats[0]) and np.isnan(nats[1]) and np.isnan(alone).all()


def test_yes_is_a_probability_and_long_rows_are_cut(tiny_folder: Path) -> None:
    inputs = ModelInputs(pt.load(str(tiny_folder)), max_length=48)
    found = [text for _, text in RowTexts()([{"text": "1 + 1 = 2 " * 200}, {"text": "a"}])]
    values = inputs.yes(found)
    assert values.shape == (2,) and ((values > 0) & (values < 1)).all()
    nats, _ = inputs.nats(found)
    assert np.isfinite(nats).all()
