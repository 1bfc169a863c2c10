"""Scores of labels in forests, against plain forwards of each prompt with each label."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from posttrain.errors import ConfigError
from posttrain.incontext.label_scores import label_logprobs, log_softmax, normalized
from posttrain.models.load import load_model


def plain(model: Any, prompts: list[list[int]], labels: list[list[int]]) -> np.ndarray:
    """One forward pass of the Hugging Face model per prompt and label."""
    rows = []
    for prompt in prompts:
        row = []
        for label in labels:
            ids = torch.tensor([[*prompt, *label]])
            with torch.no_grad():
                logits = model.hf(ids).logits[0].log_softmax(-1)
            places = range(len(prompt) - 1, len(prompt) + len(label) - 1)
            row.append(sum(float(logits[p, t]) for p, t in zip(places, label, strict=True)))
        rows.append(row)
    return np.array(rows)


def prompts_of(draw: np.random.Generator, num_shots: int, num: int) -> list[list[int]]:
    """Questions below one trunk of demonstrations, and one with demonstrations of its own."""
    shots = draw.integers(6, 260, size=(num_shots, 9)).ravel().tolist()
    texts = draw.integers(6, 260, size=(num, 7)).tolist()
    own = draw.integers(6, 260, size=40).tolist()
    return [[1, *shots, *text] for text in texts] + [[1, *own]]


@pytest.fixture(scope="module")
def double(tiny_folder: Path) -> Any:
    model = load_model(str(tiny_folder), dtype="float32", device="cpu")
    model.hf.double()
    return model


def test_sixteen_labels_with_32_shots_equal_plain_forwards(double: Any) -> None:
    draw = np.random.default_rng(0)
    prompts = prompts_of(draw, 32, 3)
    labels = [draw.integers(6, 260, size=n).tolist() for n in (1, 1, 2, 3) * 4]
    labels[5][0] = labels[4][0]  # two labels that begin alike
    found = label_logprobs(double, prompts, labels)
    assert found.shape == (4, 16) and found.dtype == np.float64
    np.testing.assert_allclose(found, plain(double, prompts, labels), rtol=0, atol=1e-6)


@pytest.mark.parametrize("max_tokens", [1, 64, 400])
def test_scores_do_not_depend_on_the_passes(double: Any, max_tokens: int) -> None:
    draw = np.random.default_rng(1)
    prompts, labels = prompts_of(draw, 4, 5), [[7, 8], [7, 9], [30]]
    whole = label_logprobs(double, prompts, labels)
    parts = label_logprobs(double, prompts, labels, max_tokens=max_tokens)
    np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-9)


def test_a_model_that_shares_no_trunks_gives_the_same(double: Any, tiny_folder: Path) -> None:
    padded = load_model(str(tiny_folder), dtype="float32", device="cpu", attention="unshared")
    padded.hf.double()
    draw = np.random.default_rng(2)
    prompts, labels = prompts_of(draw, 2, 2), [[7, 8], [7, 9], [30]]
    found = label_logprobs(padded, prompts, labels, max_tokens=100)
    np.testing.assert_allclose(found, plain(double, prompts, labels), rtol=0, atol=1e-6)


def test_lengths_and_priors_by_hand() -> None:
    logs = [[-2.0, -6.0]]
    np.testing.assert_allclose(normalized(logs)[0], [-np.log1p(np.exp(-4)), -4.01814992], atol=1e-7)
    per_token = normalized(logs, normalization="token", num_tokens=[1, 3])
    np.testing.assert_allclose(np.exp(per_token), [[0.5, 0.5]])
    per_byte = normalized(logs, normalization="byte", num_bytes=[4, 6])
    np.testing.assert_allclose(per_byte, log_softmax([[-0.5, -1.0]]))
    # What the label alone has is removed: a label that is as likely without the question scores 0.
    np.testing.assert_allclose(np.exp(normalized(logs, prior=[-2.0, -6.0])), [[0.5, 0.5]])
    with pytest.raises(ConfigError):
        normalized(logs, normalization="word")  # type: ignore[arg-type]
