"""Log-probs of a frozen reference, kept on disk."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from posttrain.config import LoraConfig
from posttrain.data.comparisons import encode_pairs
from posttrain.data.forest import Forest, Tree
from posttrain.models.load import load_model
from posttrain.training.reference import add_ref_logprobs, fingerprint

ROWS = [
    {"prompt": f"Q: {a}+{b}\nA:", "chosen": f" {a + b}", "rejected": f" {a + b + 1 + a % 2}"}
    for a in range(6)
    for b in range(4)
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("POSTTRAIN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "reference"


def test_cached_numbers_are_those_of_the_reference_and_are_found_again(
    tiny_folder: Path, cache: Path
) -> None:
    plain, lora = (
        load_model(str(tiny_folder), dtype="float32"),
        load_model(str(tiny_folder), lora=LoraConfig(r=2)),
    )
    groups = encode_pairs(ROWS[:5], plain.tokenizer).groups
    assert add_ref_logprobs(plain, groups, max_tokens=40, folder=cache) == (0, 10)
    first = [s.streams["ref_logprobs"].copy() for g in groups for s in g]
    forest = Forest.pack([Tree.build(g) for g in groups])
    assert "ref_logprobs" not in plain.forward(
        forest, {"logprobs", "ref_logprobs"}
    )  # the batch carries them
    exact = plain.forward(forest, {"logprobs"})["logprobs"].detach().numpy()
    np.testing.assert_allclose(forest.streams["ref_logprobs"].numpy(), exact, atol=2e-5)
    # Some of them and some new: only the new are computed, and the old are the same bits.
    again = encode_pairs(ROWS[:7], plain.tokenizer).groups
    assert add_ref_logprobs(plain, again, max_tokens=4000, folder=cache) == (10, 4)
    assert all(
        np.array_equal(a, s.streams["ref_logprobs"])
        for a, s in zip(first, (s for g in again for s in g))
    )
    # Other weights are another reference; adapters change nothing about their base.
    before = fingerprint(lora)
    with torch.no_grad():
        next(p for p in lora.hf.parameters() if p.requires_grad).add_(1.0)
        next(plain.hf.parameters()).view(-1)[0] += 1e-3
    assert fingerprint(lora) == before
    assert add_ref_logprobs(
        plain, encode_pairs(ROWS[:5], plain.tokenizer).groups, max_tokens=4000, folder=cache
    ) == (0, 10)
    assert len(list(cache.iterdir())) == 2 and not list(cache.rglob(".*"))
    # A flipped bit or half a file: that shard goes, with a warning, and its log-probs are computed
    # anew.
    model = load_model(str(tiny_folder), dtype="float32")
    for place, change in (
        (-1, lambda b: bytes([*b[:-1], b[-1] ^ 1])),
        (0, lambda b: b[: len(b) // 2]),
    ):
        shard = sorted((cache / fingerprint(model)).glob("*.safetensors"))[place]
        shard.write_bytes(change(shard.read_bytes()))
        fresh = encode_pairs(ROWS[:7], model.tokenizer).groups
        with pytest.warns(UserWarning, match="damaged"):
            cached, computed = add_ref_logprobs(model, fresh, max_tokens=4000, folder=cache)
        assert computed > 0 and cached + computed == 14
        assert add_ref_logprobs(model, fresh, max_tokens=4000, folder=cache) == (14, 0)
        old = [s.streams["ref_logprobs"] for g in fresh for s in g][: len(first)]
        for a, b in zip(first, old, strict=True):
            np.testing.assert_allclose(a, b, atol=2e-5)


def test_nothing_is_kept_without_a_folder(tiny_folder: Path, cache: Path) -> None:
    model = load_model(str(tiny_folder), dtype="float32")
    groups = encode_pairs(ROWS[:2], model.tokenizer).groups
    assert add_ref_logprobs(model, groups, max_tokens=4000) == (0, 4)
    assert add_ref_logprobs(model, groups, max_tokens=4000) == (0, 4)
    assert not cache.exists()
    for sequence in (s for group in groups for s in group):
        stream = sequence.streams["ref_logprobs"]
        assert (stream[sequence.loss_mask] < 0).all() and not stream[~sequence.loss_mask].any()


def test_the_fingerprint_leaves_out_what_a_folder_is_called(
    tiny_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_folder, tmp_path / "copy")
    one, two = (load_model(p, dtype="float32") for p in (tiny_folder, tmp_path / "copy"))
    assert fingerprint(one) == fingerprint(two)
    assert fingerprint(load_model(tiny_folder, dtype="bfloat16")) != fingerprint(one)
